"""The stand-in's rule, computed a second time from its docstring; and that a worker follows it."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from discod.errors import UserError
from discod.train.datasets import load, split
from discod.train.standin import TILE, apply_batch
from discod.train.task import DataSpec, ModelSpec, PrivacySpec, TaskSpec, TrainingSpec
from discod.train.vector import philox
from discod.train.worker import Job, open_worker

TASK = TaskSpec(
    name="t",
    data=DataSpec(classes=10, shape=(64,), dtype="uint8", high=(16.0,)),
    model=ModelSpec("logreg"),
    seed=77,
    training=TrainingSpec(batch_size=50),
)


def after(vector: NDArray[np.float32], seed: int, content_hash: bytes, batch: int) -> NDArray[np.float32]:
    words = philox(b"discod/stand-in/1", seed.to_bytes(8, "big"), content_hash, batch.to_bytes(8, "big")).random_raw(
        16_381
    )
    tile = np.array([int(word >> np.uint64(40)) / 2**30 - 1 / 128 for word in words], np.float32)
    decayed = vector - vector * np.float32(1 / 64)
    return decayed + np.resize(tile, len(vector))


@pytest.mark.parametrize("length", [1, TILE - 1, TILE, 3 * TILE + 5])
def test_the_rule_is_what_its_docstring_says(length: int) -> None:
    vector = np.random.default_rng(2).uniform(-1, 1, length).astype(np.float32)
    wanted = after(after(vector, 9, b"h" * 32, 300), 9, b"h" * 32, 301)
    apply_batch(vector, 9, b"h" * 32, 300)
    apply_batch(vector, 9, b"h" * 32, 301)
    np.testing.assert_array_equal(vector, wanted)


def test_another_seed_data_set_or_batch_trains_differently() -> None:
    seen = set()
    for seed, content, batch in ((1, b"a", 0), (2, b"a", 0), (1, b"b", 0), (1, b"a", 1)):
        vector = np.zeros(1000, np.float32)
        apply_batch(vector, seed, content, batch)
        seen.add(vector.tobytes())
    assert len(seen) == 4


def test_values_stay_within_a_half() -> None:
    vector = np.zeros(TILE, np.float32)
    for batch in range(500):
        apply_batch(vector, 1, b"x", batch)
    assert 0.01 < np.abs(vector).max() < 0.5


async def test_a_worker_follows_the_rule_and_counts_rows_as_the_batch_order_does() -> None:
    source = "sample:digits:2/3"
    training, _ = split(load(source, TASK.data), TASK.training.validation_split, TASK.seed)
    async with open_worker(Job(TASK, source, batch_counter=6, engine="stand-in")) as worker:
        wanted = worker.parameters.copy()
        progress = await worker.train(3)
        for batch in (6, 7, 8):
            wanted = after(wanted, TASK.seed, training.content_hash, batch)
        np.testing.assert_array_equal(worker.parameters, wanted)
        assert (progress.batches, progress.samples) == (3, 150)


async def test_with_privacy_a_stand_in_keeps_its_rule_and_tells_the_noise_a_worker_would_add() -> None:
    public = msgspec.structs.replace(TASK, training=TrainingSpec(batch_size=50, validation_split=0.0))
    private = msgspec.structs.replace(public, privacy=PrivacySpec("record", noise_multiplier=3.5, clip=0.25))
    ends = []
    for task in (public, private):
        async with open_worker(Job(task, "sample:digits:2/3", engine="stand-in")) as worker:
            await worker.train(3)
            ends.append(worker.parameters.tobytes())
            noise, rows = worker.noise, worker.training_rows
    assert ends[0] == ends[1]
    assert noise is not None
    assert (noise.q, noise.z, noise.steps, noise.clip) == (50 / rows, 3.5, 320, 0.25)


async def test_noise_that_no_model_survives_is_said_before_training() -> None:
    hopeless = msgspec.structs.replace(TASK, privacy=PrivacySpec("record", epsilon=1e-12))
    with pytest.raises(UserError, match="more noise"):
        async with open_worker(Job(hopeless, "sample:digits:2/3", engine="stand-in")):
            pass
