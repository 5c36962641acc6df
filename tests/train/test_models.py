"""Every model of the table: its tensors, counts and names; no engine needed."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from discod.train.layers import layout, parameter_count, parameter_specs
from discod.train.models import MODELS
from discod.train.task import DataSpec, ModelSpec, TaskSpec
from discod.train.vector import initial_parameters


def task_for(model: str, shape: tuple[int, ...], classes: int, hidden: tuple[int, ...] = ()) -> TaskSpec:
    data = DataSpec(classes=classes, shape=shape)
    return TaskSpec(name="t", data=data, model=ModelSpec(name=model, hidden=hidden))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "shape", "hidden", "count"),
    [
        ("logreg", (8, 8), (), 650),
        ("mlp", (8, 8), (32,), 2410),
        ("mlp", (12,), (124, 64, 32), 12 * 124 + 124 + 124 * 64 + 64 + 64 * 32 + 32 + 330),
        ("mlp-2nn", (28, 28), (), 199_210),
        ("lenet", (28, 28), (), 44_426),
        ("lenet", (32, 32, 3), (), 62_006),
    ],
)
def test_counts_are_those_of_the_papers(
    model: str, shape: tuple[int, ...], hidden: tuple[int, ...], count: int
) -> None:
    assert parameter_count(task_for(model, shape, 10, hidden)) == count


@pytest.mark.parametrize("model", MODELS)
def test_names_are_unique_and_first_values_have_the_right_spread(model: str) -> None:
    task = task_for(model, (20, 17), 4, (9, 5) if model == "mlp" else ())
    specs = parameter_specs(task)
    views = layout(task).views(initial_parameters(specs, 11))
    assert len(views) == len(specs)
    for spec in specs:
        largest = float(np.abs(views[spec.name]).max())
        assert spec.name.endswith(".bias") == (largest == 0.0)
        factor = 3.0 if spec.name.startswith("dense") and spec.shape[-1] == task.data.classes else 6.0
        assert largest <= (factor / spec.fan_in) ** 0.5


def test_every_model_a_task_may_name_exists() -> None:
    for name in ("logreg", "mlp", "mlp-2nn", "lenet"):
        assert name in MODELS
    assert all(msgspec.convert({"name": name}, ModelSpec).name == name for name in MODELS)
