"""What the demo compares with: every peer alone, and all data in one place, with as many steps, on the held-out rows.

Nothing here goes over a link, and nothing has noise. The same workers train, one after the other; the held-out part of
the sample is in nobody's share. Where the demo's task has noise, its peers also train together without, in memory, so
that it can say what the noise costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from discod.train.task import TaskSpec
from discod.train.worker import Job, open_worker

Vector = NDArray[np.float32]
SAMPLE = "sample:"


async def train_alone(task: TaskSpec, sample: str) -> Vector:
    """The vector (d,) after all of the task's batches on one sample, without anybody else."""
    async with open_worker(Job(task, SAMPLE + sample)) as worker:
        await worker.train(task.rounds * task.round_duration)
        return np.array(worker.parameters)


async def train_together(task: TaskSpec, samples: Sequence[str]) -> Vector:
    """The vector (d,) of federated averaging without noise: the mean after each round, weighted by samples."""
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(open_worker(Job(task, SAMPLE + sample))) for sample in samples]
        for _ in range(task.rounds):
            counts = [(await worker.train(task.round_duration)).samples for worker in workers]
            vectors = np.array([worker.parameters for worker in workers], np.float64)
            mean = np.average(vectors, axis=0, weights=counts).astype(np.float32)
            for worker in workers:
                worker.parameters[:] = mean
        return np.array(mean)


async def measure(task: TaskSpec, sample: str, vectors: Sequence[Vector]) -> list[float]:
    """The accuracy of each vector on all rows of the sample."""
    whole = msgspec.structs.replace(task, training=msgspec.structs.replace(task.training, validation_split=0.0))
    async with open_worker(Job(whole, SAMPLE + sample)) as worker:
        return [await _accuracy(worker, vector) for vector in vectors]


async def _accuracy(worker: Any, vector: Vector) -> float:
    worker.parameters[:] = vector
    return float((await worker.evaluate("train")).accuracy)
