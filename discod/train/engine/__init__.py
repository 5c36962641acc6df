"""The engine: what the worker does with tinygrad. Nothing else of discod imports tinygrad.

The whole shard lies on the device. A training step is a pure function of its cells: a feed (feeds.py) says which rows
make the batch, which is gathered and normalised, and loss and correct counts pile up in `totals`, which are read once.
The mask weights the loss. Without DP (steps.py) a step follows the gradient of the mean over its unmasked rows, and a
pass over the data needs one upload. With DP (private.py) it follows the noised mean of clipped gradients, and each step
gets rows and noise of its own.

On the CPU every cell is memory of this process and the parameters are views of the vector that the parent sees:
training updates it in place, with no copy. The step is captured once as a plan (train/plan.py), on cells of zeros, so
nothing needs restoring, and replayed. A plan has room for more rows than there are (pages never touched take no
memory), so that peers with unlike amounts of data share it. On another device the same functions run under the engine's
own JIT, and parameters are copied there before and back after.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from discod.privacy.plan import Noise
from discod.train.datasets import Dataset, offset_and_scale
from discod.train.engine.feeds import Feed, Passes, Samples
from discod.train.engine.memory import DeviceMemory, HostMemory
from discod.train.engine.private import private_step
from discod.train.engine.steps import Cells, forward_step, training_step
from discod.train.layers import layout
from discod.train.plan import aligned_zeros
from discod.train.task import TaskSpec
from discod.train.totals import Totals
from discod.train.vector import Vector

CHUNK_ROWS = 128  # rows of one forward pass when measuring or predicting
ROOM_ROWS = 65_536  # every plan has room for so many rows,
ROOM_BYTES = 1 << 26  # or for as many as fit here

Array = NDArray[Any]


class Engine:
    """One task's model on one device, training in `vector` (d,) float32, which starts on a 64-byte boundary.

    With `noise` training is DP-SGD, and `key` (32 bytes, for this engine alone) decides batches and noise.
    """

    def __init__(
        self,
        task: TaskSpec,
        vector: Vector,
        training: Dataset,
        *,
        batch_counter: int = 0,
        noise: Noise | None = None,
        key: bytes = b"",
        device: str = "CPU",
        cache: Path,
        on_event: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._task, self.batch_counter = task, batch_counter
        self._memory: HostMemory | DeviceMemory = (
            HostMemory(task, cache, on_event) if device == "CPU" else DeviceMemory(device, on_event)
        )
        self._parameters = list(layout(task).views(vector).values())
        self._scale = [_aligned(array) for array in offset_and_scale(task.data)]
        self._feed, function = self._private(training, noise, key) if noise else self._plain(training)
        cells = [*self._shard(training), *self._scale, *self._feed.cells]
        self._totals = aligned_zeros((3,), np.float32)
        state = [*self._parameters, *self._velocities(), *self._feed.noise]
        self._step = self._memory.step(function, [*cells, self._totals, *state])
        self._forward = self._memory.step(forward_step(task), [*self._forward_cells(), *self._parameters])
        self._memory.push(*cells, *state)

    def _plain(self, training: Dataset) -> tuple[Feed, Callable[[Cells], None]]:
        return Passes(self._task, training, self._capacity(training), self._memory.push), training_step(self._task)

    def _private(self, training: Dataset, noise: Noise, key: bytes) -> tuple[Feed, Callable[[Cells], None]]:
        return Samples(self._task, len(training), noise, key, self._memory.push), private_step(self._task)

    def _capacity(self, training: Dataset) -> int:
        return capacity_rows(max(len(training), self._task.batch_size), training.inputs[0].nbytes)

    def _shard(self, training: Dataset) -> tuple[Array, Array]:
        rows, capacity = len(training), self._capacity(training)
        inputs = aligned_zeros((capacity, *self._task.data.shape), self._task.data.dtype)
        labels = aligned_zeros((capacity,), np.int32)
        inputs[:rows], labels[:rows] = training.inputs, training.labels
        return inputs, labels

    def _velocities(self) -> list[Array]:
        momentum = self._task.training.momentum > 0
        return [aligned_zeros(view.shape, np.float32) for view in self._parameters] if momentum else []

    def _forward_cells(self) -> list[Array]:
        self._chunk = aligned_zeros((CHUNK_ROWS, *self._task.data.shape), self._task.data.dtype)
        self._logits = aligned_zeros((CHUNK_ROWS, self._task.data.classes), np.float32)
        return [self._chunk, *self._scale, self._logits]

    def train(self, batches: int) -> Totals:
        """Train the next `batches`; the vector changes in place."""
        self._totals[:] = 0
        self._memory.push(self._totals, *self._parameters)
        while batches > 0:
            taken = self._feed.place(self.batch_counter, batches)
            self._step(taken)
            self.batch_counter, batches = self.batch_counter + taken, batches - taken
        self._memory.pull(self._totals, *self._parameters)
        loss, correct, count = self._totals
        return Totals(float(loss), round(float(correct)), round(float(count)))

    def measure(self, dataset: Dataset) -> Totals:
        """Loss and correct rows of the parameters as they are, over all rows; sums in float64."""
        logits = self.logits(dataset.inputs).astype(np.float64)
        top = logits.max(axis=1, keepdims=True)
        chosen = np.take_along_axis(logits, dataset.labels[:, None].astype(np.int64), axis=1)
        losses = np.log(np.exp(logits - top).sum(axis=1)) + (top - chosen)[:, 0]
        correct = int((logits.argmax(axis=1) == dataset.labels).sum())
        return Totals(float(losses.sum()), correct, len(dataset))

    def logits(self, inputs: Array) -> NDArray[np.float32]:
        """Unscaled rows (n, *shape) -> (n, classes)."""
        self._memory.push(*self._parameters)
        result = np.empty((len(inputs), self._task.data.classes), np.float32)
        for start in range(0, len(inputs), CHUNK_ROWS):
            rows = inputs[start : start + CHUNK_ROWS]
            self._chunk[: len(rows)] = rows
            self._memory.push(self._chunk)
            self._forward(1)
            self._memory.pull(self._logits)
            result[start : start + len(rows)] = self._logits[: len(rows)]
        return result


def capacity_rows(rows: int, row_bytes: int) -> int:
    """Room for at least `rows`: a power of two that most shards of such rows have in common."""
    room = min(ROOM_ROWS, _power_of_two(ROOM_BYTES // row_bytes + 1) // 2)
    return max(room, _power_of_two(rows))


def _power_of_two(least: int) -> int:
    return 1 << max(0, least - 1).bit_length()


def _aligned(values: Array) -> Array:
    copy = aligned_zeros(values.shape, values.dtype)
    copy[...] = values
    return copy
