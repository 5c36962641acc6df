"""Three real daemons with real workers against plain numpy: federated averaging of a small network on real digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from discod.daemon.surroundings import Engine
from discod.train.compiler import private_directory
from discod.train.datasets import normalised, sample
from discod.train.layers import layout, parameter_specs
from discod.train.task import ModelSpec, RoundSpec, TaskSpec, TrainingSpec
from discod.train.templates import DIGITS_DATA
from discod.train.vector import Vector, initial_parameters
from tests.daemon.company import Outcome, Part, add_rows, train
from tests.daemon.conftest import Home
from tests.daemon.fedavg import Round, federated
from tests.daemon.wiretap import Wiretap, seen, traces
from tests.train import oracle

ROUNDS, PEERS = 10, 3
TOLERANCE = 1e-4  # of a parameter after all rounds: tinygrad works in float32, the oracle in float64
TASK = TaskSpec(
    name="digits-iid",
    seed=11,
    data=DIGITS_DATA,
    model=ModelSpec("mlp", (32,)),
    training=TrainingSpec(learning_rate=0.3, batch_size=32),
    round=RoundSpec(rounds=ROUNDS, round_duration=8, min_peers=PEERS, straggle_seconds=60.0),
)
MARKER = np.random.default_rng(77).permutation(np.arange(64) % 17).reshape(8, 8).astype(np.uint8)  # no digit


def sgd(local: Vector, part: Part, rows: NDArray[np.int32], mask: NDArray[np.bool_], batch: int) -> None:
    """One step on the mean loss of a batch, forwards and backwards by hand in float64."""
    tensors = layout(TASK).views(local)
    chosen = rows[mask]
    inputs = normalised(part.training.inputs[chosen], TASK.data).reshape(len(chosen), -1).astype(np.float64)
    before = inputs @ tensors["dense1.weight"].astype(np.float64) + tensors["dense1.bias"]
    hidden = np.maximum(before, 0)
    logits: oracle.Array = hidden @ tensors["dense2.weight"].astype(np.float64) + tensors["dense2.bias"]
    error = oracle.probabilities(logits)  # (B, classes)
    error[np.arange(len(chosen)), part.training.labels[chosen]] -= 1
    error /= len(chosen)
    back = error @ tensors["dense2.weight"].astype(np.float64).T * (before > 0)  # (B, hidden)
    gradients = {
        "dense1.weight": inputs.T @ back,
        "dense1.bias": back.sum(axis=0),
        "dense2.weight": hidden.T @ error,
        "dense2.bias": error.sum(axis=0),
    }
    for name, gradient in gradients.items():
        tensors[name] -= (TASK.training.learning_rate * gradient).astype(np.float32)


def right(parameters: Vector, inputs: NDArray[np.uint8], labels: NDArray[np.int32]) -> int:
    """How many rows the oracle classifies correctly."""
    logits = oracle.logits(TASK, layout(TASK).views(parameters), inputs)
    return int((logits.argmax(axis=1) == labels).sum())


def shares(homes: list[Home], directory: Path) -> list[Part]:
    """All digits that may be trained on, shuffled, in three parts; the marker is in the first."""
    rows = sample("digits:train")
    order = np.random.default_rng(4).permutation(len(rows))
    size = len(rows) // PEERS
    parts = []
    for number, one in enumerate(homes):
        mine = order[number * size : (number + 1) * size]
        inputs, labels = rows.inputs[mine].copy(), rows.labels[mine]
        if number == 0:
            inputs[::50] = MARKER
        parts.append(add_rows(one, TASK, directory / f"{number}.npz", inputs, labels))
    return parts


def agrees(outcome: Outcome, expected: list[Round], parts: list[Part]) -> float:
    """Every state and every accuracy of every peer; the largest difference of a parameter."""
    differences = []
    for number, round_ in enumerate(expected, 1):
        assert len({states[number].tobytes() for states in outcome.states}) == 1
        differences.append(float(np.abs(outcome.states[0][number] - round_.parameters).max()))
        for part, accuracies in zip(parts, outcome.accuracies, strict=True):
            assert part.validation is not None
            validation = part.validation
            mine = right(round_.parameters, validation.inputs, validation.labels)
            assert abs(accuracies[number - 1] * len(validation) - mine) < 1.01, (number, accuracies, mine)
    return max(differences)


async def test_ten_rounds_on_digits_are_those_of_numpy(
    home: Callable[[str], Home],
    signaling: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pytestconfig: pytest.Config,
) -> None:
    homes = [home(name) for name in ("anna", "bert", "carl")]
    assert pytestconfig.cache is not None
    kernels = private_directory(pytestconfig.cache.mkdir("kernels") / "private")  # that of tests/train
    for one in homes:
        one.paths = msgspec.structs.replace(one.paths, cache=kernels)
    parts = shares(homes, tmp_path)
    tap = Wiretap(monkeypatch)
    outcome = await train(homes, signaling, TASK, Engine(), 110)
    first = initial_parameters(parameter_specs(TASK), TASK.seed)
    expected = federated(TASK, first, parts, sgd)
    assert outcome.contributors == [PEERS] * ROUNDS
    largest = agrees(outcome, expected, parts)
    assert largest < TOLERANCE
    # The test tests something: the model has moved and learned, on rows that nobody has trained on.
    assert np.abs(outcome.states[0][ROUNDS] - first).max() > 1000 * TOLERANCE
    held_out = sample("digits:test")
    accuracy = right(outcome.states[0][ROUNDS], held_out.inputs, held_out.labels) / len(held_out)
    print(f"largest difference {largest:.2e}, accuracy on held-out digits {accuracy:.4f}")  # for -s
    assert accuracy > 0.8
    assert seen(traces(MARKER, TASK.data), tap.everything()) == set()
