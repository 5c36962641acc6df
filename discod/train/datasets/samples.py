"""Bundled samples: real data inside the package, to try things and for the demo.

`NAME:1/3` is part 1 of 3, `NAME:0-3` the labels 0 to 3, `NAME:train` all that may be trained on, `NAME:test` what never
is: a fifth of each label, drawn by a seed fixed with the sample. The rest is cut into N equal parts, sorted by label
(digits) or mixed by the same seed (tumor); the fewer than N rows left over belong to no part.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files

import numpy as np
from numpy.typing import NDArray

from discod.errors import BadData
from discod.train.datasets.dataset import Dataset, checked
from discod.train.datasets.npz import read_npz
from discod.train.task import DataSpec
from discod.train.templates import DIGITS_DATA, TUMOR_DATA
from discod.train.vector import philox

HELD_OUT_LABEL = b"discod/sample-test-rows/1"
MIXED_LABEL = b"discod/sample-mixed-rows/1"
HELD_OUT_FRACTION = 0.2
HELD_OUT_SEED = b"\x00"

_PART = re.compile(r"^(?P<part>\d{1,3})/(?P<parts>\d{1,3})$")
_RANGE = re.compile(r"^(?P<first>\d{1,3})(?:-(?P<last>\d{1,3}))?$")


@dataclass(frozen=True)
class Sample:
    """A bundled file, the schema of its data, and whether its parts have labels of their own."""

    file: str
    data: DataSpec
    parts_by_label: bool = True


SAMPLES = {
    "digits": Sample("digits_8x8.npz", DIGITS_DATA),
    "tumor": Sample("breast_cancer.npz", TUMOR_DATA, parts_by_label=False),
}


def sample(reference: str) -> Dataset:
    """The rows that `reference` names, for example "digits:1/3". Raises: BadData."""
    whole = _whole(sample_name(reference))
    return whole.rows(_rows(whole.labels, reference.partition(":")[2] or "train", reference))


def sample_name(reference: str) -> str:
    """The sample that `reference` selects from. Raises: BadData when there is none of that name."""
    name = reference.partition(":")[0]
    if name not in SAMPLES:
        raise BadData(f"there is no sample `{name}`", f"samples: {', '.join(SAMPLES)}", code="no-sample")
    return name


@cache
def _whole(name: str) -> Dataset:
    entry = SAMPLES[name]
    with as_file(files("discod.train.datasets") / "bundle" / entry.file) as path:
        return checked(*read_npz(path), entry.data, f"the sample {name}")


def _rows(labels: NDArray[np.int32], selection: str, reference: str) -> NDArray[np.int64]:
    training, test = held_out(labels)
    if selection in ("train", "test"):
        return test if selection == "test" else training
    if match := _PART.match(selection):
        part, parts = int(match["part"]), int(match["parts"])
        if 1 <= part <= parts <= len(training):
            size = len(training) // parts
            if not SAMPLES[sample_name(reference)].parts_by_label:
                training = _mixed(training)
            return training[(part - 1) * size : part * size]
    elif match := _RANGE.match(selection):
        first, last = int(match["first"]), int(match["last"] or match["first"])
        chosen = training[(labels[training] >= first) & (labels[training] <= last)]
        if first <= last <= labels.max() and len(chosen):
            return chosen
    why = f"the sample `{reference}` has no rows of that kind"
    name = reference.partition(":")[0]
    raise BadData(
        why, f"write {name}:1/3 (part 1 of 3), {name}:0-3 (labels), {name}:test or {name}:train", code="no-sample"
    )


def _mixed(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    words = philox(MIXED_LABEL, HELD_OUT_SEED).random_raw(len(rows))
    return rows[np.argsort(words, kind="stable")]


def held_out(labels: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(training rows sorted by label, test rows sorted by label) as row numbers; disjoint, together all rows."""
    training, test = [], []
    for label in range(int(labels.max()) + 1):
        rows = np.flatnonzero(labels == label)
        words = philox(HELD_OUT_LABEL, HELD_OUT_SEED, label.to_bytes(4, "big")).random_raw(len(rows))
        order, held = np.argsort(words, kind="stable"), round(len(rows) * HELD_OUT_FRACTION)
        test.append(np.sort(rows[order[:held]]))
        training.append(np.sort(rows[order[held:]]))
    return np.concatenate(training), np.concatenate(test)
