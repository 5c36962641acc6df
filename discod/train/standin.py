"""The stand-in engine: numpy where the real one has tinygrad, to test and measure everything but the learning.

Same process, pipes, memory, data and batch order; the updates are a rule that anyone can compute, for a vector of any
length. Training batch number k (cumulative, from 0) does to the vector x, in float32, elementwise, in this order:

    x -= x * 2^-6
    x += tile repeated over x, where tile (16381,) float32 = (w >> 40) * 2^-30 - 2^-7
         w = the first 16381 words of philox("discod/stand-in/1", seed (8 bytes, big), content hash, k (8 bytes, big))

Multiplications by powers of two are exact, so each line rounds once and the result has the same bits everywhere. An
element moves by at most 2^-7 + |x| 2^-6 a batch and stays within 1/2. 16381 is a prime, so that exchanged or shifted
pieces of the vector are noticed.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from discod.train.batches import BatchOrder
from discod.train.datasets import Dataset
from discod.train.task import TaskSpec
from discod.train.totals import Totals
from discod.train.vector import Layout, Vector, philox

LABEL = b"discod/stand-in/1"
TILE = 16_381  # floats
DECAY = np.float32(2.0**-6)
STEP = 2.0**-7  # largest step of an element


def stand_in_layout(length: int) -> Layout:
    """The layout of a vector that is one tensor of `length` floats."""
    return Layout(("stand-in",), ((length,),), (0,), length)


def apply_batch(vector: Vector, seed: int, content_hash: bytes, batch: int) -> None:
    """Train one batch: the rule above, in place."""
    vector -= vector * DECAY
    tile = _tile(seed, content_hash, batch)
    for start in range(0, len(vector), TILE):
        part = vector[start : start + TILE]
        part += tile[: len(part)]


def _tile(seed: int, content_hash: bytes, batch: int) -> NDArray[np.float32]:
    words = philox(LABEL, seed.to_bytes(8, "big"), content_hash, batch.to_bytes(8, "big")).random_raw(TILE)
    return ((words >> np.uint64(40)).astype(np.float64) * 2.0**-30 - STEP).astype(np.float32)


class StandIn:
    """What the engine is to the worker's loop, on `vector` (d,) float32."""

    def __init__(
        self, task: TaskSpec, vector: Vector, training: Dataset, *, batch_counter: int, seconds_per_batch: float
    ) -> None:
        self._task, self._vector, self._training, self._rest = task, vector, training, seconds_per_batch
        self._order = BatchOrder(task.seed, training.content_hash, len(training), task.batch_size)
        self.batch_counter = batch_counter

    def train(self, batches: int) -> Totals:
        """Train the next `batches`; the vector changes in place. The loss is what `measure` says afterwards."""
        samples = 0
        for _ in range(batches):
            number, step = self._order.position(self.batch_counter)
            samples += int(self._order.pass_block(number).mask[step].sum())
            apply_batch(self._vector, self._task.seed, self._training.content_hash, self.batch_counter)
            self.batch_counter += 1
            if self._rest:
                time.sleep(self._rest)  # the time training would take; asked for by the job
        return self._totals(samples)

    def measure(self, dataset: Dataset) -> Totals:
        """A loss that depends on the vector alone, as if every row had it; half of the rows are right."""
        return self._totals(len(dataset))

    def _totals(self, rows: int) -> Totals:
        loss = float(np.abs(self._vector[:TILE]).mean(dtype=np.float64))
        return Totals(loss * rows, rows // 2, rows)

    def logits(self, inputs: NDArray[np.generic]) -> NDArray[np.float32]:
        """All classes alike."""
        return np.zeros((len(inputs), self._task.data.classes), np.float32)
