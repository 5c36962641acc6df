"""Where a step's rows come from, and its noise: each feed fills cells that the step reads.

`Passes` is the seeded permutation (batches.py): a pass over the data is uploaded once and a counter on the device picks
the row of it. `Samples` is for DP-SGD: a Poisson batch and noise for every step, from a key that is never used again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from discod.privacy.plan import Noise
from discod.train.batches import BatchBlock, BatchOrder
from discod.train.chacha import ChaCha
from discod.train.datasets import Dataset
from discod.train.layers import layout
from discod.train.plan import aligned_zeros
from discod.train.poisson import PoissonBatches, block_rows
from discod.train.task import TaskSpec

CLIP_MARGIN = 2.0**-14  # clipped so much shorter that rounding makes no gradient longer than the noise is made for

Array = NDArray[Any]
Push = Callable[..., None]  # arrays that have changed, to the device


class Feed(Protocol):
    """`cells` stand behind the data in a step's cells, `noise` (one array for each parameter, or none) at the end."""

    cells: list[Array]
    noise: list[Array]

    def place(self, batch: int, wanted: int) -> int:
        """Make the cells ready for batch number `batch`; how many steps may follow, `wanted` at most."""


class Passes:
    """Batches of the seeded permutation of a data set, with room for passes of `capacity` rows."""

    def __init__(self, task: TaskSpec, training: Dataset, capacity: int, push: Push) -> None:
        self._order = BatchOrder(task.seed, training.content_hash, len(training), task.batch_size)
        self._indices = aligned_zeros((capacity // task.batch_size, task.batch_size), np.int32)
        self._mask = aligned_zeros(self._indices.shape, np.bool_)
        self._counter = aligned_zeros((1,), np.int32)
        self._block: tuple[int, BatchBlock] | None = None
        self._push = push
        self.cells: list[Array] = [self._indices, self._mask, self._counter]
        self.noise: list[Array] = []

    def place(self, batch: int, wanted: int) -> int:
        number, step = self._order.position(batch)
        if self._block is None or self._block[0] != number:
            self._block = number, (block := self._order.pass_block(number))
            self._indices[: block.steps], self._mask[: block.steps] = block.indices, block.mask
            self._push(self._indices, self._mask)
        self._counter[0] = step
        self._push(self._counter)
        return min(wanted, self._block[1].steps - step)


class Samples:
    """Poisson batches of `rows` rows and Gaussian noise, as `noise` says."""

    def __init__(self, task: TaskSpec, rows: int, noise: Noise, key: bytes, push: Push) -> None:
        self._chance, place = ChaCha(key), layout(task)
        block = block_rows(rows, noise.q, noise.overflow)
        self._batches = PoissonBatches(self._chance, rows, noise.q, block)
        self._deviation = np.float32(noise.z * noise.clip)
        self._indices, self._mask = aligned_zeros((1, block), np.int32), aligned_zeros((1, block), np.bool_)
        self._rule = aligned_zeros((2,), np.float32)
        self._rule[:] = noise.clip * (1 - CLIP_MARGIN), noise.q * rows
        self._vector = aligned_zeros((place.d,), np.float32)
        self._push = push
        self.cells = [self._indices, self._mask, self._rule]
        self.noise = list(place.views(self._vector).values())

    def place(self, batch: int, wanted: int) -> int:
        drawn = self._batches.draw()
        self._indices[:], self._mask[:] = drawn.indices, drawn.mask
        np.multiply(self._chance.normals(len(self._vector)), self._deviation, out=self._vector)
        self._push(self._indices, self._mask, *self.noise)
        return min(wanted, 1)
