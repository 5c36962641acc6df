"""A data set in memory: inputs, labels, and the hash of their content; what every loader ends in.

The content hash, not the path or the alias, says what the data is: it seeds the batch order, and the same rows under
another name are the same data. Checks happen here once, for every kind of file. numpy only.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from discod.errors import BadData
from discod.train.task import DataSpec
from discod.train.vector import philox

CONTENT_LABEL = b"discod/data/1"
VALIDATION_LABEL = b"discod/validation-rows/1"
ROW_SIDE_LABEL = b"discod/validation-row/1"


@dataclass(frozen=True)
class Dataset:
    """`inputs` (n, *shape) float32 or uint8, unscaled; `labels` (n,) int32; `content_hash` 32 bytes."""

    inputs: NDArray[Any]
    labels: NDArray[np.int32]
    classes: int
    content_hash: bytes

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, index: NDArray[np.integer]) -> Dataset:
        """The chosen rows, with the content hash of their own."""
        return _hashed(self.inputs[index], self.labels[index], self.classes)


def checked(inputs: NDArray[Any], labels: NDArray[Any], spec: DataSpec, source: str) -> Dataset:
    """The data as the task wants it. Raises: BadData when shape, values or labels do not fit the task."""
    for name, array in (("inputs", inputs), ("labels", labels)):
        if array.dtype.kind not in "buif":
            raise BadData(
                f"{source}: the {name} are of type {array.dtype}, not numbers", "store numbers", code="bad-data"
            )
    if inputs.ndim == 0 or len(inputs) == 0:
        raise BadData(f"{source} has no rows", "give a file with data in it", code="bad-data")
    return _hashed(_inputs(inputs, spec, source), _labels(labels, len(inputs), spec, source), spec.classes)


def _inputs(inputs: NDArray[Any], spec: DataSpec, source: str) -> NDArray[Any]:
    if inputs.shape[1:] != spec.shape and inputs[0].size != spec.features:
        found, wanted = list(inputs.shape[1:]), list(spec.shape)
        why = f"{source}: a row has shape {found}, the task wants {wanted}"
        raise BadData(why, "use the data this task was made for, or make a task from this file", code="wrong-shape")
    if inputs.dtype.kind == "f" and not (finite := np.isfinite(inputs)).all():
        row = int(np.argwhere(~finite)[0][0])
        why = f"{source}: row {row} of the inputs (counted from 0) holds a NaN or an infinity"
        raise BadData(why, "fill or remove such rows", code="not-finite")
    if spec.dtype == "uint8" and not fits_uint8(inputs):
        why = f"{source}: the task wants whole numbers 0..255, the inputs hold others"
        raise BadData(why, 'scale the inputs, or set dtype = "float32" in the task', code="bad-data")
    with np.errstate(over="ignore"):  # said in words below
        shaped = inputs.reshape(len(inputs), *spec.shape).astype(spec.dtype)
    if shaped.dtype.kind == "f" and not np.isfinite(shaped).all():
        raise BadData(f"{source}: an input is too large for float32", "scale the inputs", code="not-finite")
    return np.ascontiguousarray(shaped)


def fits_uint8(inputs: NDArray[Any]) -> bool:
    """Whether all inputs are whole numbers 0..255."""
    return bool(inputs.min() >= 0 and inputs.max() <= 255 and (inputs == np.floor(inputs)).all())


def _labels(labels: NDArray[Any], rows: int, spec: DataSpec, source: str) -> NDArray[np.int32]:
    if labels.shape not in ((rows,), (rows, 1)):
        why = f"{source}: {rows} rows of inputs, but the labels have shape {list(labels.shape)}"
        raise BadData(why, "give one label for each row", code="wrong-shape")
    flat = labels.reshape(rows)
    wrong = ~((flat >= 0) & (flat < spec.classes) & (flat == np.floor(flat)))
    if wrong.any():
        row = int(np.argmax(wrong))
        why = f"{source}: label {flat[row]} in row {row} (counted from 0) is not one of 0..{spec.classes - 1}"
        raise BadData(why, "number the classes from 0, or use a task with as many classes", code="bad-label")
    return np.ascontiguousarray(flat.astype(np.int32))


def _hashed(inputs: NDArray[Any], labels: NDArray[np.int32], classes: int) -> Dataset:
    inputs, labels = np.ascontiguousarray(inputs), np.ascontiguousarray(labels)
    digest = hashlib.sha256(CONTENT_LABEL)
    digest.update(f"{inputs.dtype.name} {inputs.shape} {classes};".encode())
    little = inputs.astype(inputs.dtype.newbyteorder("<"), copy=False)
    digest.update(little.tobytes())
    digest.update(labels.astype("<i4", copy=False).tobytes())
    return Dataset(inputs, labels, classes, digest.digest())


def split(dataset: Dataset, fraction: float, seed: int, *, by_row: bool = False) -> tuple[Dataset, Dataset | None]:
    """(training rows, validation rows): `fraction` of the rows, drawn by the task's seed and content; None if empty.

    At least one row stays on the training side, and on the validation side unless `fraction` is 0 or there is one row.
    With `by_row` each row's side follows from that row alone, so that one row more or less moves no other: what is
    promised for a record under noise holds for nothing else. About `fraction` then, and all may be on one side.
    """
    if by_row and fraction > 0:
        kept_rows = _chances(dataset, seed) < fraction
        return dataset.rows(np.flatnonzero(~kept_rows)), _rows_or_none(dataset, np.flatnonzero(kept_rows))
    n = len(dataset)
    kept = min(max(round(n * fraction), 1), n - 1) if fraction > 0 else 0
    if kept == 0:
        return dataset, None
    words = philox(VALIDATION_LABEL, seed.to_bytes(8, "big"), dataset.content_hash).random_raw(n)
    order = np.argsort(words, kind="stable")
    return dataset.rows(np.sort(order[kept:])), dataset.rows(np.sort(order[:kept]))


def _rows_or_none(dataset: Dataset, index: NDArray[np.intp]) -> Dataset | None:
    return dataset.rows(index) if len(index) else None


def _chances(dataset: Dataset, seed: int) -> NDArray[np.float64]:
    """(n,) a number in [0, 1) for each row, from the seed and what the row holds."""
    start = hashlib.sha256(ROW_SIDE_LABEL + seed.to_bytes(8, "big"))
    little = dataset.inputs.astype(dataset.inputs.dtype.newbyteorder("<"), copy=False)
    words = []
    for inputs, label in zip(little, dataset.labels.tolist(), strict=True):
        digest = start.copy()
        digest.update(inputs.tobytes() + int(label).to_bytes(4, "little"))
        words.append(int.from_bytes(digest.digest()[:6], "big"))
    return np.array(words, np.float64) / 2.0**48


def normalised(inputs: NDArray[Any], spec: DataSpec) -> NDArray[np.float32]:
    """Inputs (n, *shape) -> float32 (n, *shape), with the task's low at 0 and its high at 1.

    This is (x - low) * (1 / (high - low)) in float32, elementwise: the engine does the same on its device.
    """
    low, scale = (bound.reshape(-1) for bound in offset_and_scale(spec))
    flat = inputs.reshape(len(inputs), -1).astype(np.float32)
    return ((flat - low) * scale).reshape(inputs.shape)


def offset_and_scale(spec: DataSpec) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(low, 1 / (high - low)), each float32 (1,) or (features,): a normalised input is (x - low) * scale."""
    low, high = np.asarray(spec.low, np.float64), np.asarray(spec.high, np.float64)
    return low.astype(np.float32), np.atleast_1d(1.0 / (high - low)).astype(np.float32)


def describe(dataset: Dataset) -> str:
    """One line: rows, inputs and labels; no value of any row."""
    sides = ",".join(map(str, dataset.inputs.shape[1:]))
    rows = f"{len(dataset):,}".replace(",", " ")
    return f"{rows} rows · x {dataset.inputs.dtype}[{sides}] · y in 0..{dataset.classes - 1}"
