"""What a data file looks like, when no task says what it should be: for `data add` and `task new --from`.

The result can become public in a task, so bounds are rounded outwards to one digit of the spread. numpy only.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from discod.errors import BadData
from discod.train.datasets.dataset import fits_uint8
from discod.train.datasets.npz import read_npz
from discod.train.datasets.samples import SAMPLES, sample_name
from discod.train.datasets.source import SAMPLE_PREFIX, kind_of, readable
from discod.train.datasets.table import read_header, read_table
from discod.train.task import DataSpec

PIXEL_TOPS = (1.0, 16.0, 255.0)  # usual brightest values of whole-number pixels
MANY_COLUMNS = 256  # above it one pair of bounds serves all columns
MAX_CLASSES, MAX_SIDES = 65_536, 3


def infer(source: str | Path) -> DataSpec:
    """The [data] section that describes the file (arrays x and y, or a CSV whose last column is the label) or sample.

    Raises: BadData, PermissionProblem.
    """
    if str(source).startswith(SAMPLE_PREFIX):
        return SAMPLES[sample_name(str(source).removeprefix(SAMPLE_PREFIX))].data
    path = Path(source)
    with readable(path):
        if kind_of(path) == "csv":
            return _csv(path)
        return _npz(*read_npz(path), str(source))


def _npz(inputs: NDArray[Any], labels: NDArray[Any], source: str) -> DataSpec:
    _numeric(inputs, labels, source)
    shape = inputs.shape[1:] or (1,)
    if len(shape) > MAX_SIDES:
        raise BadData(
            f"{source}: a row has {len(shape)} sides, more than {MAX_SIDES}", "flatten the rows", code="wrong-shape"
        )
    if inputs.dtype.kind in "bui" and fits_uint8(inputs):
        top = next(top for top in PIXEL_TOPS if inputs.max() <= top)
        return DataSpec(classes=_classes(labels, source), shape=shape, dtype="uint8", high=(top,))
    low, high = _outward(float(inputs.min()), float(inputs.max()))
    return DataSpec(classes=_classes(labels, source), shape=shape, low=(low,), high=(high,))


def _csv(path: Path) -> DataSpec:
    header = read_header(path)
    inputs, labels = read_table(path, (), "")
    if len(header) < 2:
        raise BadData(
            f"{path} has one column: no inputs beside the label", "give at least two columns", code="wrong-shape"
        )
    _numeric(inputs, labels, str(path))
    columns = inputs if len(header) <= MANY_COLUMNS else inputs.reshape(-1, 1)
    bounds = [_outward(float(column.min()), float(column.max())) for column in columns.T]
    low, high = zip(*bounds, strict=True)
    return DataSpec(
        classes=_classes(labels, str(path)),
        shape=(inputs.shape[1],),
        kind="csv",
        inputs=tuple(header[:-1]) if len(header) <= MANY_COLUMNS else (),
        labels=header[-1],
        low=low,
        high=high,
    )


def _numeric(inputs: NDArray[Any], labels: NDArray[Any], source: str) -> None:
    for name, array in (("inputs", inputs), ("labels", labels)):
        if array.dtype.kind not in "buif":
            raise BadData(
                f"{source}: the {name} are of type {array.dtype}, not numbers", "store numbers", code="bad-data"
            )
        if array.ndim == 0 or array.size == 0:
            raise BadData(f"{source}: there are no {name}", "give a file with rows in it", code="bad-data")
        if not np.isfinite(array).all():
            raise BadData(
                f"{source}: the {name} hold a NaN or an infinity", "fill or remove such rows", code="not-finite"
            )


def _classes(labels: NDArray[Any], source: str) -> int:
    lowest, highest = labels.min(), labels.max()
    if lowest < 0 or highest >= MAX_CLASSES or (labels != np.floor(labels)).any():
        why = f"{source}: the labels are not class numbers: they reach from {lowest} to {highest}"
        raise BadData(why, "number the classes 0, 1, 2, ...", code="bad-label")
    return max(2, int(highest) + 1)


def _outward(low: float, high: float) -> tuple[float, float]:
    """Bounds around [low, high], rounded outwards to the leading digit of the spread: (1987, 2004) -> (1980, 2010)."""
    spread = high - low or abs(high) or 1.0
    digits = -math.floor(math.log10(spread))
    step = 10.0**-digits
    below, above = math.floor(low / step), math.ceil(high / step)
    return round(below * step, digits), round((above if above > below else below + 1) * step, digits)
