"""A small task and a few rows for every model of the table: other types, bounds and shapes for each."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from discod.train.task import DataSpec, ModelSpec, TaskSpec, TrainingSpec

ROWS, BATCH = 6, 8  # fewer rows than a batch holds: every batch is padded, every batch is the same
RATE, MOMENTUM = 0.125, 0.75
SHAPES = {"logreg": (7,), "mlp": (5, 3), "mlp-2nn": (11,), "lenet": (16, 18, 2)}


def task_for(model: str) -> TaskSpec:
    """A small task of a kind of its own: other types, bounds and shapes for each model."""
    floats = model in ("logreg", "mlp-2nn")
    data = DataSpec(
        classes=3,
        shape=SHAPES[model],
        dtype="float32" if floats else "uint8",
        low=(-2.0,) if floats else (10.0,),
        high=(3.0,) if floats else tuple(200.0 + n for n in range(int(np.prod(SHAPES[model])))),
    )
    return TaskSpec(
        name=model,
        data=data,
        model=ModelSpec(name=model, hidden=(6, 4) if model == "mlp" else ()),  # type: ignore[arg-type]
        seed=5,
        training=TrainingSpec(
            learning_rate=RATE, momentum=MOMENTUM if model == "mlp" else 0.0, batch_size=BATCH, validation_split=0.0
        ),
    )


def rows_for(task: TaskSpec) -> tuple[NDArray[Any], NDArray[np.int32]]:
    random = np.random.default_rng(3)
    labels = np.array([0, 1, 2, 2, 1, 2], np.int32)
    if task.data.dtype == "uint8":
        return random.integers(0, 256, (ROWS, *task.data.shape), np.uint8), labels
    return random.uniform(-2, 3, (ROWS, *task.data.shape)).astype(np.float32), labels
