"""What verbs without a daemon compute: a worker is started, asked, and ended."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import trio
from numpy.typing import NDArray

from discod.errors import BadData
from discod.train import datasets
from discod.train.datasets.source import kind_of, readable
from discod.train.datasets.table import read_table
from discod.train.task import TaskSpec
from discod.train.worker import Job, Metrics, open_worker

Vector = NDArray[np.float32]
Tell = Callable[[str], None]


def evaluate(task: TaskSpec, vector: Vector, source: str, tell: Tell) -> Metrics:
    """Loss and accuracy of the parameters on all rows of a source."""

    async def measure() -> Metrics:
        async with open_worker(Job(without_validation(task), source), parameters=vector, on_event=tell) as worker:
            return await worker.evaluate("train")

    return trio.run(measure)


def without_validation(task: TaskSpec) -> TaskSpec:
    """The same task, all rows on the training side: nothing is trained, everything is measured."""
    return msgspec.structs.replace(task, training=msgspec.structs.replace(task.training, validation_split=0.0))


def predict(task: TaskSpec, vector: Vector, place: str, tell: Tell) -> list[dict[str, Any]]:
    """Class and probability of each row at `place`, and its label where there is one."""
    inputs, labels = read_inputs(task, place)
    probabilities = trio.run(_probabilities, task, vector, inputs, tell)
    rows: list[dict[str, Any]] = [
        {"class": int(row.argmax()), "prob": round(float(row.max()), 6)} for row in probabilities
    ]
    if labels is not None and len(labels) == len(rows):
        for row, label in zip(rows, labels.reshape(-1), strict=True):
            row["label"] = int(label)
    return rows


async def _probabilities(task: TaskSpec, vector: Vector, inputs: NDArray[Any], tell: Tell) -> NDArray[np.float32]:
    """The worker reads data only from files, so the rows become one; checking them comes with that."""
    plain = msgspec.structs.replace(task.data, kind="npz", inputs=(), labels="")
    whole = without_validation(msgspec.structs.replace(task, data=plain))
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.npz"
        np.savez(rows, x=inputs, y=np.zeros(len(inputs), np.int32))
        async with open_worker(Job(whole, str(rows)), parameters=vector, on_event=tell) as worker:
            return await worker.predict(datasets.load(rows, plain).inputs)


def read_inputs(task: TaskSpec, place: str) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Rows (n, *shape) to predict, and their labels if the file has any; one row may come without the first axis.

    Raises: BadData, PermissionProblem.
    """
    if place.startswith(datasets.SAMPLE_PREFIX):
        found = datasets.load(place, task.data)
        return found.inputs, found.labels
    path = Path(place)
    with readable(path):
        inputs, labels = _array(path), None
        if inputs is None:
            inputs, labels = _csv(path, task) if kind_of(path) == "csv" else _npz(path, task)
    alone = inputs.shape == task.data.shape or inputs.shape == (task.data.features,)
    return (inputs[None] if alone else inputs), labels


def _array(path: Path) -> NDArray[Any] | None:
    if path.suffix.lower() != ".npy":
        return None
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise BadData(f"{path} is not a whole npy file: {error}", "save it with numpy.save") from None


def _npz(path: Path, task: TaskSpec) -> tuple[NDArray[Any], NDArray[Any] | None]:
    import zipfile

    name, label = (task.data.inputs or ("x",))[0], task.data.labels or "y"
    try:
        with np.load(path, allow_pickle=False) as archive:
            if name not in archive.files:
                raise BadData(f"{path} has no array `{name}`", "name the array of inputs so")
            return np.asarray(archive[name]), np.asarray(archive[label]) if label in archive.files else None
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise BadData(f"{path} is not a whole npz file: {error}", "save it with numpy.savez") from None


def _csv(path: Path, task: TaskSpec) -> tuple[NDArray[Any], NDArray[Any] | None]:
    inputs, labels = read_table(path, task.data.inputs, task.data.labels)
    return inputs, labels
