"""DP-SGD in a real worker: clipping, sampling, noise. Each check is a function of an implementation, so that the usual
mistakes, made on purpose in a double of numpy, are seen to be noticed.

    clip     every row drawn, next to no noise: a step is the clipped sum, against the oracle one row at a time
    noise    far more noise than gradient: a step is the noise
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from discod.privacy.plan import Noise, plan_noise
from discod.train.layers import layout
from discod.train.models import MODELS
from discod.train.task import DataSpec, ModelSpec, PrivacySpec, RoundSpec, TaskSpec, TrainingSpec
from discod.train.worker import Job, Worker, first_parameters, open_worker
from tests.train import oracle
from tests.train.small import MOMENTUM, RATE, ROWS, rows_for, task_for

MARGIN = 2.0**-14  # clipped so much shorter, that rounding makes no gradient too long
SILENT = 1e-9  # a noise multiplier that nothing shows

Array = NDArray[np.float64]


def private(task: TaskSpec, z: float, clip: float) -> TaskSpec:
    return msgspec.structs.replace(task, privacy=PrivacySpec("record", noise_multiplier=z, clip=clip))


@asynccontextmanager
async def training(task: TaskSpec, inputs: Any, labels: Any, directory: Path, cache: Path) -> AsyncIterator[Worker]:
    np.savez(directory / "rows.npz", x=inputs, y=labels)
    async with open_worker(Job(task, str(directory / "rows.npz")), cache=cache) as worker:
        yield worker


# Clipping


def gradients(task: TaskSpec, inputs: Any, labels: Any, vector: NDArray[Any]) -> Array:
    """(n, d): each row's gradient by itself."""
    place = layout(task)
    views = place.views(vector)
    rows = []
    for row, label in zip(inputs, labels, strict=True):
        found = np.zeros(place.d)
        by_tensor = oracle.gradient(task, views, row, label)
        for name, shape, offset in zip(place.names, place.shapes, place.offsets, strict=True):
            found[offset : offset + math.prod(shape)] = by_tensor[name].ravel()
        rows.append(found)
    return np.array(rows)


def clipped(rows: Array, clip: float) -> Array:
    factors = np.minimum(1, clip / np.linalg.norm(rows, axis=1))
    result: Array = rows * factors[:, None]
    return result


@pytest.mark.parametrize("model", MODELS)
async def test_a_step_is_the_sum_of_gradients_each_clipped_by_itself(
    model: str, tmp_path: Path, kernel_cache: Path
) -> None:
    task = task_for(model)
    inputs, labels = rows_for(task)
    first = first_parameters(Job(task, ""))
    own, tensors = gradients(task, inputs, labels, first), layout(task).views(first)
    norms = np.sort(np.linalg.norm(own, axis=1))
    for clip in (2 * norms[-1], (norms[2] + norms[3]) / 2, norms[0] / 3):  # none is clipped, some are, all are
        task = private(task, SILENT, float(clip))
        async with training(task, inputs, labels, tmp_path, kernel_cache) as worker:
            before = worker.parameters.astype(np.float64)
            progress = await worker.train(1)
            moved = (before - worker.parameters) / RATE
        assert progress.samples == ROWS
        assert progress.loss == pytest.approx(oracle.mean_loss(task, tensors, inputs, labels), 1e-5)
        wanted = clipped(own, clip * (1 - MARGIN))
        np.testing.assert_allclose(moved * ROWS, wanted.sum(axis=0), atol=1e-5 * clip)
        for wrong in (own.sum(axis=0), clipped(own, clip / 2).sum(axis=0), clipped(own.sum(axis=0)[None], clip)[0]):
            assert clip == 2 * norms[-1] or np.abs(moved * ROWS - wrong).max() > 1e-2 * clip


@pytest.mark.parametrize("model", MODELS)
async def test_the_gradient_of_one_row_equals_the_oracle_whatever_lies_in_the_padding(
    model: str, tmp_path: Path, kernel_cache: Path
) -> None:
    """One row fills one slot; the other 15 hold the same row, masked."""
    task = private(task_for(model), SILENT, 50.0)
    inputs, labels = rows_for(task)
    async with training(task, inputs[3:4], labels[3:4], tmp_path, kernel_cache) as worker:
        before = worker.parameters.astype(np.float64)
        progress = await worker.train(1)
        moved = (before - worker.parameters) / RATE
    [wanted] = gradients(task, inputs[3:4], labels[3:4], before.astype(np.float32))
    assert progress.samples == 1
    np.testing.assert_allclose(moved, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


async def test_momentum_carries_on_what_was_clipped_and_noised(tmp_path: Path, kernel_cache: Path) -> None:
    task = private(task_for("mlp"), SILENT, 0.25)
    async with training(task, *rows_for(task), tmp_path, kernel_cache) as worker:
        start = worker.parameters.copy()
        await worker.train(1)
        first = worker.parameters - start
        worker.parameters[:] = start
        await worker.train(1)
        np.testing.assert_allclose(worker.parameters - start, (1 + MOMENTUM) * first, rtol=1e-4, atol=1e-6)


async def test_a_row_without_bounds_moves_a_step_no_further_than_any_other(tmp_path: Path, kernel_cache: Path) -> None:
    task = private(task_for("mlp-2nn"), SILENT, 0.5)
    inputs, labels = rows_for(task)
    inputs[2] = 3e38
    async with training(task, inputs, labels, tmp_path, kernel_cache) as worker:
        before = worker.parameters.astype(np.float64)
        await worker.train(1)
        assert np.isfinite(worker.parameters).all()
        assert 0 < np.linalg.norm(before - worker.parameters) / RATE <= 0.5


# Sampling and noise


class Seen(NamedTuple):
    """What steps did: how far each moved the parameters, over the learning rate (T, d), and how many rows it had."""

    moved: Array
    samples: NDArray[np.int64]


NOISY = private(
    TaskSpec(
        name="noisy",
        data=DataSpec(classes=10, shape=(64,)),
        model=ModelSpec("logreg"),
        training=TrainingSpec(learning_rate=0.5, batch_size=12, validation_split=0.0),
        round=RoundSpec(rounds=25, round_duration=10),
    ),
    z=40.0,
    clip=0.7,
)
N, STEPS = 40, 250
NOISE = Noise(q=0.3, z=40.0, steps=250, delta=1e-5, clip=0.7)


def noisy_rows() -> tuple[Array, NDArray[np.int64]]:
    random = np.random.default_rng(6)
    return random.uniform(0, 1, (N, 64)), random.integers(0, 10, N)


def faults(seen: Seen, noise: Noise = NOISE) -> list[str]:
    """What is wrong with them as steps of DP-SGD on N rows, beyond six standard errors."""
    found, (steps, d) = [], seen.moved.shape
    unit = seen.moved * (noise.q * N) / (noise.z * noise.clip)
    if abs(unit.std() - 1) > 6 / math.sqrt(2 * steps * d):
        found.append("deviation")
    if np.abs(unit.std(axis=1) - 1).max() > 6 / math.sqrt(2 * d):
        found.append("deviation of a step")
    if abs((unit**4).mean() - 3) > 6 * math.sqrt(96 / (steps * d)):
        found.append("tails")
    if abs(np.corrcoef(unit[:-1].ravel(), unit[1:].ravel())[0, 1]) > 6 / math.sqrt(steps * d):
        found.append("noise comes again")
    variance = N * noise.q * (1 - noise.q)
    if abs(seen.samples.mean() - N * noise.q) > 6 * math.sqrt(variance / steps):
        found.append("mean size")
    if abs(seen.samples.var() / variance - 1) > 6 * math.sqrt(2 / steps):
        found.append("spread of sizes")
    return found


async def test_steps_of_a_worker_are_poisson_batches_with_the_right_noise(tmp_path: Path, kernel_cache: Path) -> None:
    moved, samples = [], []
    used = [offset + i for offset, shape in zip(*shapes(), strict=True) for i in range(math.prod(shape))]
    async with training(NOISY, *noisy_rows(), tmp_path, kernel_cache) as worker:
        assert (worker.noise, worker.training_rows) == (NOISE, N)
        for _ in range(STEPS):
            before = worker.parameters.astype(np.float64)
            samples.append((await worker.train(1)).samples)
            moved.append((before - worker.parameters)[used] / NOISY.training.learning_rate)
        gaps = np.delete(worker.parameters, used)
    assert faults(Seen(np.array(moved), np.array(samples))) == []
    assert not gaps.any(), "gaps between tensors stay zero"


def shapes() -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    place = layout(NOISY)
    return place.offsets, place.shapes


Deviation = Callable[[float, float], float]
Divisor = Callable[[int], float]


def double(
    deviation: Deviation = lambda z, clip: z * clip,
    divisor: Divisor = lambda drawn: NOISE.q * N,
    *,
    poisson: bool = True,
    fresh: bool = True,
) -> Seen:
    """DP-SGD in numpy, or what somebody might take for it. The gradient is left out: the noise is far larger."""
    random, d = np.random.default_rng(2), 650
    sizes = random.binomial(N, NOISE.q, STEPS) if poisson else np.full(STEPS, NOISY.batch_size)
    noise = random.standard_normal((STEPS if fresh else 1, d)) * deviation(NOISE.z, NOISE.clip)
    return Seen(np.array([noise[t % len(noise)] / divisor(int(size)) for t, size in enumerate(sizes)]), sizes)


MISTAKES: dict[str, tuple[Callable[[], Seen], str]] = {
    "the variance for the deviation": (partial(double, lambda z, clip: (z * clip) ** 2), "deviation"),
    "the deviation's root": (partial(double, lambda z, clip: math.sqrt(z * clip)), "deviation"),
    "half the deviation": (partial(double, lambda z, clip: z * clip / 2), "deviation"),
    "noise without the clip": (partial(double, lambda z, clip: z), "deviation"),
    "the clip squared": (partial(double, lambda z, clip: z * clip * clip), "deviation"),
    "noise shared by rows": (partial(double, lambda z, clip: z * clip / math.sqrt(NOISE.q * N)), "deviation"),
    "divided by the rows drawn": (partial(double, divisor=float), "deviation of a step"),
    "divided by all rows": (partial(double, divisor=lambda drawn: N), "deviation"),
    "a permutation": (partial(double, poisson=False), "spread of sizes"),
    "the same noise in every step": (partial(double, fresh=False), "noise comes again"),
}


def test_the_double_without_a_mistake_is_right() -> None:
    assert faults(double()) == []


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_usual_mistakes_are_noticed(mistake: str) -> None:
    wrong, fault = MISTAKES[mistake]
    assert fault in faults(wrong())


async def test_two_workers_with_the_same_task_and_data_draw_differently(tmp_path: Path, kernel_cache: Path) -> None:
    """Batches and noise are from the system's entropy, never from the task's seed."""
    ends = []
    for _ in range(2):
        async with training(NOISY, *noisy_rows(), tmp_path, kernel_cache) as worker:
            await worker.train(1)
            ends.append(worker.parameters.copy())
    assert (ends[0] != ends[1]).mean() > 0.9


async def test_the_noise_follows_from_epsilon_and_the_rows_and_is_told(tmp_path: Path, kernel_cache: Path) -> None:
    rule = PrivacySpec("record", epsilon=3.0)
    task = msgspec.structs.replace(NOISY, privacy=rule)
    async with training(task, *noisy_rows(), tmp_path, kernel_cache) as worker:
        noise = worker.noise
        assert noise == plan_noise(task, N)
    assert noise is not None
    assert (noise.q, noise.steps, noise.delta, noise.clip) == (0.3, 250, 1e-5, 1.0)
    assert 2.9 < noise.epsilon <= 3.0
    public = msgspec.structs.replace(NOISY, privacy=PrivacySpec())
    async with training(public, *noisy_rows(), tmp_path, kernel_cache) as worker:
        assert worker.noise is None


async def test_another_device_takes_the_same_steps(tmp_path: Path, kernel_cache: Path) -> None:
    """CPU:1 has memory of its own, like a GPU. All rows are in every batch and no noise shows, so steps are alike."""
    task, ends = private(task_for("mlp"), SILENT, 0.5), []
    inputs, labels = rows_for(task)
    np.savez(tmp_path / "rows.npz", x=inputs, y=labels)
    for device in ("CPU", "CPU:1"):
        async with open_worker(Job(task, str(tmp_path / "rows.npz"), device=device), cache=kernel_cache) as worker:
            assert (await worker.train(5)).samples == 5 * ROWS
            ends.append(worker.parameters.copy())
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-5)
