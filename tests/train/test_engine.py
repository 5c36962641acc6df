"""The engine in its worker, held against float64 oracles: every model of the table, in place, masked, deterministic."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from discod.train.models import MODELS
from discod.train.task import TaskSpec, TrainingSpec
from discod.train.worker import Job, Worker, open_worker
from tests.train import oracle
from tests.train.small import MOMENTUM, RATE, ROWS, rows_for, task_for


@asynccontextmanager
async def training(
    task: TaskSpec, directory: Path, cache: Path, **options: Any
) -> AsyncIterator[tuple[Worker, NDArray[Any], NDArray[np.int32]]]:
    inputs, labels = rows_for(task)
    path = directory / "rows.npz"
    np.savez(path, x=inputs, y=labels)
    async with open_worker(Job(task, str(path), **options), cache=cache) as worker:
        yield worker, inputs, labels


@pytest.mark.parametrize("model", MODELS)
async def test_a_step_follows_the_gradient_of_the_rows_that_are_not_masked(
    model: str, tmp_path: Path, kernel_cache: Path
) -> None:
    task = task_for(model)
    async with training(task, tmp_path, kernel_cache) as (worker, inputs, labels):
        before = worker.parameters.astype(np.float64)
        progress = await worker.train(1)
        moved = (before - worker.parameters) / RATE

        def loss(vector: NDArray[np.float64]) -> float:
            tensors = {
                name: vector[offset : offset + int(np.prod(shape))].reshape(shape)
                for name, shape, offset in zip(
                    worker.layout.names, worker.layout.shapes, worker.layout.offsets, strict=True
                )
            }
            return oracle.mean_loss(task, tensors, inputs, labels)

        assert progress.samples == ROWS
        assert progress.loss == pytest.approx(loss(before), rel=1e-5)
        random = np.random.default_rng(1)
        for shape, offset in zip(worker.layout.shapes, worker.layout.offsets, strict=True):
            for index in offset + random.integers(0, int(np.prod(shape)), 3):
                step = np.zeros_like(before)
                step[index] = 1e-6
                slope = (loss(before + step) - loss(before - step)) / 2e-6
                assert moved[index] == pytest.approx(slope, rel=2e-3, abs=1e-5), (index, offset)


@pytest.mark.parametrize("model", MODELS)
async def test_measuring_and_predicting_equal_the_oracle_and_the_loss_falls(
    model: str, tmp_path: Path, kernel_cache: Path
) -> None:
    task = task_for(model)
    async with training(task, tmp_path, kernel_cache) as (worker, inputs, labels):
        tensors = worker.layout.views(worker.parameters)
        first = await worker.evaluate("train")
        wanted = oracle.logits(task, tensors, inputs)
        assert first.loss == pytest.approx(oracle.mean_loss(task, tensors, inputs, labels), rel=1e-5)
        assert first.accuracy == pytest.approx((wanted.argmax(axis=1) == labels).mean())
        assert first.count == ROWS
        many = np.concatenate([inputs] * 25)  # more than one chunk, the last one ragged
        predicted = await worker.predict(many)
        np.testing.assert_allclose(predicted, oracle.probabilities(np.concatenate([wanted] * 25)), rtol=1e-4, atol=1e-6)
        await worker.train(200)
        assert (await worker.evaluate("train")).loss < first.loss / 2
        assert (await worker.evaluate("validation")).count == 0


async def test_gaps_between_tensors_stay_zero(tmp_path: Path, kernel_cache: Path) -> None:
    async with training(task_for("mlp"), tmp_path, kernel_cache) as (worker, _, _):
        await worker.train(5)
        rest = worker.parameters.copy()
        for view in worker.layout.views(rest).values():
            view[...] = 0
        assert not rest.any()


async def test_momentum_carries_the_last_step_on(tmp_path: Path, kernel_cache: Path) -> None:
    async with training(task_for("mlp"), tmp_path, kernel_cache) as (worker, _, _):
        start = worker.parameters.copy()
        await worker.train(1)
        first = worker.parameters - start
        worker.parameters[:] = start  # every batch is the same: the second step has the same gradient
        await worker.train(1)
        np.testing.assert_allclose(worker.parameters - start, (1 + MOMENTUM) * first, rtol=1e-4, atol=1e-6)


async def test_batches_continue_where_the_counter_says(tmp_path: Path, kernel_cache: Path) -> None:
    rules = TrainingSpec(learning_rate=RATE, batch_size=4, validation_split=0.0)
    task = msgspec.structs.replace(task_for("logreg"), training=rules)
    random = np.random.default_rng(8)
    path = tmp_path / "many.npz"
    np.savez(
        path, x=random.uniform(-2, 3, (14, *task.data.shape)), y=np.arange(14) % 3
    )  # 3 batches a pass, 2 rows left
    async with open_worker(Job(task, str(path)), cache=kernel_cache) as worker:
        whole = await worker.train(11)
        wanted = worker.parameters.copy()
        assert (worker.batch_counter, whole.samples) == (11, 44)
    async with open_worker(Job(task, str(path)), cache=kernel_cache) as worker:
        await worker.train(4)
        middle = worker.parameters.copy()
    async with open_worker(Job(task, str(path), batch_counter=4), parameters=middle, cache=kernel_cache) as worker:
        await worker.train(7)
        assert worker.batch_counter == 11
        np.testing.assert_array_equal(worker.parameters, wanted)


async def test_another_device_trains_to_the_same_bits(tmp_path: Path, kernel_cache: Path) -> None:
    """CPU:1 has memory of its own, like a GPU, and takes the path through the engine's own dispatch."""
    vectors, losses = [], []
    for device in ("CPU", "CPU:1"):
        async with training(task_for("mlp"), tmp_path, kernel_cache, device=device) as (worker, _, _):
            losses.append((await worker.train(9)).loss)
            losses.append((await worker.evaluate("train")).loss)
            vectors.append(worker.parameters.copy())
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert losses[:2] == losses[2:]
