"""Data sets: files and bundled samples -> numpy arrays that fit the task, or an error that says why not.

A source is a path, or `sample:` and a sample's name: `sample:digits:1/3`. A new kind of file is one module, one line in
_READERS, and its name in source.KINDS.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from discod.errors import BadData
from discod.train.datasets.dataset import Dataset, checked, describe, normalised, offset_and_scale, split
from discod.train.datasets.infer import infer
from discod.train.datasets.npz import read_npz
from discod.train.datasets.samples import SAMPLES, sample
from discod.train.datasets.source import SAMPLE_PREFIX, kind_of, readable
from discod.train.datasets.table import read_table
from discod.train.task import DataSpec

__all__ = [
    "SAMPLES",
    "SAMPLE_PREFIX",
    "Dataset",
    "describe",
    "infer",
    "load",
    "normalised",
    "offset_and_scale",
    "sample",
    "split",
]

Arrays = tuple[NDArray[Any], NDArray[Any]]


def _npz(path: Path, spec: DataSpec) -> Arrays:
    return read_npz(path, spec.inputs[0] if spec.inputs else "", spec.labels)


def _csv(path: Path, spec: DataSpec) -> Arrays:
    return read_table(path, spec.inputs, spec.labels)


_READERS: dict[str, Callable[[Path, DataSpec], Arrays]] = {"npz": _npz, "csv": _csv}


def load(source: str | Path, spec: DataSpec) -> Dataset:
    """The data at `source` as the task's [data] section wants it.

    Raises: BadData (missing, truncated, wrong shape, NaN, labels outside the classes), PermissionProblem.
    """
    if str(source).startswith(SAMPLE_PREFIX):
        found = sample(str(source).removeprefix(SAMPLE_PREFIX))
        return checked(found.inputs, found.labels, spec, f"the {source}")
    path = Path(source)
    if (kind := kind_of(path)) != spec.kind:
        raise BadData(
            f"{path} is a {kind} file, the task wants {spec.kind}", f"save it as {spec.kind}", code="wrong-kind"
        )
    with readable(path):
        return checked(*_READERS[spec.kind](path, spec), spec, str(source))
