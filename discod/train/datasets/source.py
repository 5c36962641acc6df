"""Where data comes from: a path of a known kind, or `sample:` and a sample's name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from discod.errors import BadData, PermissionProblem

SAMPLE_PREFIX = "sample:"
KINDS = ("npz", "csv")


def kind_of(path: Path) -> str:
    """The kind a file's name says it is. Raises: BadData for a kind that cannot be read."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in KINDS:
        raise BadData(f"{path} is neither .npz nor .csv", f"use a file of kind {' or '.join(KINDS)}", code="bad-data")
    return kind


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns the system's errors about `path` into BadData and PermissionProblem."""
    try:
        yield
    except FileNotFoundError as error:
        raise BadData(f"{path} does not exist", "check the path", code="no-data") from error
    except PermissionError as error:
        raise PermissionProblem(f"{path} may not be read by this user", "change its mode or owner") from error
    except OSError as error:
        raise BadData(f"{path} cannot be read: {error.strerror or error}", "check the path", code="no-data") from error
