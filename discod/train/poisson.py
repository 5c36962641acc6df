"""Batches for DP-SGD: each row is in each batch with the same probability, whatever else is in it.

Only a batch drawn so, and unknown to all, lets the accountant count on sampling (Abadi et al. 2016, Mironov et al.
2019); a shuffled pass does not. So the words are secret (chacha.py), never from the task's seed.

Batches differ in size, the step's shape is fixed: rows go to the front of a padded block, with a mask behind. A batch
that does not fit is drawn again, whole, never cut; that changes the distribution by the chance of it, for which the
block is made large enough that the accountant can pay. Pure: numpy only.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from discod.train.batches import BatchBlock
from discod.train.chacha import ChaCha

BLOCK_MULTIPLE = 16  # lanes of the widest vector register; and peers with nearly as many rows share a compiled step


def block_rows(rows: int, probability: float, overflow: float) -> int:
    """Slots of a block for batches of `rows` rows: one does not fit with a chance of at most `overflow`.

    Chernoff's bound: P(Binomial(n, q) >= a) <= exp(-n KL(a / n, q)) for a > n q; a few slots more than the exact tail.
    """
    assert 0 < probability <= 1, "a chance"
    assert overflow > 0, "only a block for all rows never overflows"
    most = next(
        (size for size in range(math.ceil(rows * probability), rows) if _tail(rows, probability, size) <= overflow),
        rows,
    )
    return -(-most // BLOCK_MULTIPLE) * BLOCK_MULTIPLE


def _tail(rows: int, probability: float, size: int) -> float:
    """At least the chance of more than `size`."""
    share = (size + 1) / rows
    if share >= 1:
        return probability**rows
    nats = share * math.log(share / probability) + (1 - share) * math.log((1 - share) / (1 - probability))
    return math.exp(-rows * nats)


class PoissonBatches:
    """Draws batches of a data set of `rows` rows into blocks of `block` slots."""

    def __init__(self, chance: ChaCha, rows: int, probability: float, block: int) -> None:
        self._chance, self._rows, self._probability, self._block = chance, rows, probability, block
        self.redrawn = 0  # batches that did not fit

    def draw(self) -> BatchBlock:
        """The next batch: a block of one step."""
        while len(chosen := self._chosen()) > self._block:
            self.redrawn += 1
        indices = np.zeros((1, self._block), np.int32)
        indices[0, : len(chosen)] = chosen
        return BatchBlock(indices, np.arange(self._block)[None, :] < len(chosen))

    def _chosen(self) -> NDArray[np.intp]:
        return np.flatnonzero(self._chance.chances(self._rows, self._probability))
