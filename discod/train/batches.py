"""Which rows make which batch: a batch is a row of indices and a mask, whoever produced it.

The seeded permutation is one producer. Its order comes from (task seed, content hash of the data, pass) and never from
the PeerId, so the same data trains the same way on any machine and two runs without faults end in the same model.
Other producers (random batches under differential privacy) fill the same block and use the mask in earnest.

Shapes are static: of a pass over n rows the ragged end (fewer than B rows) is dropped, and since each pass has a new
order, it is a different end each time. Fewer than B rows in all make one padded batch a pass. Pure: numpy only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from discod.train.vector import philox

ORDER_LABEL = b"discod/batch-order/1"


@dataclass(frozen=True)
class BatchBlock:
    """Some steps' batches: `indices` (steps, B) int32 into the rows, `mask` (steps, B) bool, False in a padding slot.

    Padding slots hold index 0, which is always a valid row.
    """

    indices: NDArray[np.int32]
    mask: NDArray[np.bool_]

    def __post_init__(self) -> None:
        assert self.indices.shape == self.mask.shape, "a mask belongs to each index"

    @property
    def steps(self) -> int:
        return int(self.indices.shape[0])

    @property
    def samples(self) -> int:
        """How many rows the block trains on, padding not counted."""
        return int(self.mask.sum())


@dataclass(frozen=True)
class BatchOrder:
    """The seeded permutation: batch number (cumulative over passes, from 0) -> the rows of that batch."""

    seed: int
    content_hash: bytes
    rows: int
    batch_size: int

    def __post_init__(self) -> None:
        assert self.rows > 0, "no rows, no batches"
        assert self.batch_size > 0, "an empty batch"

    @property
    def batches_per_pass(self) -> int:
        return max(1, self.rows // self.batch_size)

    def position(self, batch: int) -> tuple[int, int]:
        """(pass, step within the pass) of a batch counted from the start of training."""
        return divmod(batch, self.batches_per_pass)

    def pass_block(self, number: int) -> BatchBlock:
        """All batches of pass `number`: (batches_per_pass, B)."""
        stream = philox(ORDER_LABEL, self.seed.to_bytes(8, "big"), self.content_hash, number.to_bytes(8, "big"))
        order = np.argsort(stream.random_raw(self.rows), kind="stable")[: self.batches_per_pass * self.batch_size]
        indices = np.zeros(self.batches_per_pass * self.batch_size, np.int32)
        indices[: len(order)] = order
        mask = np.arange(len(indices)) < len(order)
        shape = (self.batches_per_pass, self.batch_size)
        return BatchBlock(indices.reshape(shape), mask.reshape(shape))

    def batches(self, start: int) -> Iterator[tuple[NDArray[np.int32], NDArray[np.bool_]]]:
        """Endless (indices (B,), mask (B,)) from batch `start` on: what a step sees, for oracles and the stand-in."""
        number, step = self.position(start)
        while True:
            block = self.pass_block(number)
            yield from zip(block.indices[step:], block.mask[step:], strict=True)
            number, step = number + 1, 0
