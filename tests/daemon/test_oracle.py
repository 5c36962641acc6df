"""Three real daemons against plain numpy: what they certify is federated averaging, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from discod.daemon.surroundings import Engine
from discod.ring import FULL_WEIGHT, hash_floats
from discod.train.standin import apply_batch
from discod.train.task import AggregationSpec, DataSpec, ModelSpec, RoundSpec, TaskSpec, TrainingSpec
from discod.train.vector import Vector
from tests.daemon.company import Part, add_rows, train
from tests.daemon.conftest import Home
from tests.daemon.fedavg import federated

FLOATS = 20_000  # more than one tile of the stand-in, and chunks of unequal size
ROWS = (5, 23, 90)  # two peers fill no batch of 32
TASK = TaskSpec(
    name="oracle",
    seed=3,
    data=DataSpec(classes=2, shape=(3,)),
    model=ModelSpec("logreg"),
    training=TrainingSpec(batch_size=32, validation_split=0.2),
    round=RoundSpec(rounds=4, round_duration=3, min_peers=3, straggle_seconds=60.0),
    aggregation=AggregationSpec(bound=2.0**-7),  # smaller than some updates of the first round
)


def stand_in(local: Vector, part: Part, rows: NDArray[np.int32], mask: NDArray[np.bool_], batch: int) -> None:
    apply_batch(local, TASK.seed, part.training.content_hash, batch)


@pytest.mark.parametrize("aggregator", ["mean", "secure"])
async def test_three_daemons_certify_what_numpy_computes(
    home: Callable[[str], Home], signaling: str, tmp_path: Path, aggregator: Literal["mean", "secure"]
) -> None:
    """Masks are exact: a secure sum is the same to the bit."""
    task = msgspec.structs.replace(TASK, aggregation=AggregationSpec(aggregator, bound=TASK.bound))
    random = np.random.default_rng(1)
    homes = [home(name) for name in ("anna", "bert", "carl")]
    parts = [
        add_rows(one, task, tmp_path / f"{count}.npz", random.uniform(0, 1, (count, 3)), random.integers(0, 2, count))
        for one, count in zip(homes, ROWS, strict=True)
    ]
    outcome = await train(homes, signaling, task, Engine("stand-in", "CPU", FLOATS), 100)
    expected = federated(task, np.zeros(FLOATS, np.float32), parts, stand_in)
    assert outcome.contributors == [3] * TASK.rounds
    for states, bounds, model in zip(outcome.states, outcome.bounds, outcome.models, strict=True):
        assert sorted(states) == [1, 2, 3, 4]
        for number, round_ in enumerate(expected, 1):
            assert states[number].tobytes() == round_.parameters.tobytes(), f"round {number}"
            assert bounds[number] == round_.bound
        assert model["hash"] == hash_floats(expected[-1].parameters).hex()
    # The test tests something: unequal weights, clipping, a bound that moves, and the textbook's mean.
    assert expected[0].weights == [round(FULL_WEIGHT * n / 32) for n in (4, 18, 32)]
    assert expected[0].clipped > 0
    assert expected[1].clipped == 0
    assert expected[0].bound != TASK.bound
    errors = [float(np.abs(round_.parameters - round_.textbook).max()) for round_ in expected]
    assert max(errors) < 2.0**-21, errors  # of moves of 2^-6; weights have 16 bits, words 29
    assert np.abs(expected[-1].parameters).max() > 2.0**-6
