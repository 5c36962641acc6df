"""npz files: one array of inputs, one of labels. Never unpickles: an array of objects is refused."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from discod.errors import BadData

DEFAULT_INPUTS, DEFAULT_LABELS = "x", "y"


def read_npz(path: Path, inputs: str = "", labels: str = "") -> tuple[NDArray[Any], NDArray[Any]]:
    """The two arrays as stored. Raises: BadData when the file or one of the arrays cannot be read."""
    names = (inputs or DEFAULT_INPUTS, labels or DEFAULT_LABELS)
    try:
        with path.open("rb") as file:  # numpy leaves a file open that it cannot read
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise BadData(
                    f"{path} is a single array, not an npz archive", "save it with numpy.savez", code="bad-data"
                )
            with archive:
                return _member(archive, names[0], path), _member(archive, names[1], path)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, SyntaxError, NotImplementedError) as error:
        why = f"{path} is not a whole npz file, or holds Python objects: {error}"
        raise BadData(why, "copy the file again, or save plain arrays with numpy.savez", code="bad-data") from error


def _member(archive: Any, name: str, path: Path) -> NDArray[Any]:
    if name not in archive.files:
        there = ", ".join(sorted(archive.files)[:10]) or "nothing"
        why = f"{path} has no array `{name}`; it has {there}"
        raise BadData(
            why, f"name the arrays {DEFAULT_INPUTS} and {DEFAULT_LABELS}, or set [data] in the task", code="bad-data"
        )
    return np.asarray(archive[name])
