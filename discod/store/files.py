"""Files that are whole or not there: written beside, fsynced, renamed into place, the directory fsynced.

A process killed at any step leaves the old file or the new one, and at worst a leftover that the next start removes.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from discod.errors import PermissionProblem, UserError

NEW = ".new-"  # what a file is called until it is whole
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Buffer = bytes | memoryview


def write_whole(path: Path, pieces: Iterable[Buffer]) -> None:
    """Replace `path` by the concatenated pieces, mode 0600; on any error the old file stays as it was.

    Raises: UserError (disk-full), PermissionProblem.
    """
    spare = path.with_name(f"{NEW}{secrets.token_hex(8)}")
    with saving(path):
        try:
            _write_new(spare, pieces)
            os.replace(spare, path)
        except BaseException:
            spare.unlink(missing_ok=True)
            raise
        fsync_directory(path.parent)


def make_directory(path: Path) -> None:
    """Make a private directory that survives a power cut. Raises: UserError (disk-full), PermissionProblem."""
    if path.is_dir():
        return
    with saving(path):
        path.mkdir(mode=0o700, exist_ok=True)
        fsync_directory(path.parent)


def remove_leftovers(directory: Path) -> None:
    """Remove what killed writers left in `directory` and below. Only for the holder of the home's lock."""
    for leftover in directory.rglob(f"{NEW}*"):
        leftover.unlink(missing_ok=True)


def fsync_directory(directory: Path) -> None:
    """Make the names in `directory` durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def saving(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to save `path` into sentences. Raises: UserError, PermissionProblem."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise disk_full(path) from None
        raise PermissionProblem(
            f"cannot save {path}: {error.strerror}", f"ls -ld {path.parent}; df {path.parent}"
        ) from None


def disk_full(path: Path) -> UserError:
    """Return what is said when there is no room for `path`."""
    why = f"no space left on the disk to save {path}; what was saved before is kept"
    return UserError(why, f"make room: df -h {path.parent}", code="disk-full")


def _write_new(path: Path, pieces: Iterable[Buffer]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        for piece in pieces:
            view = memoryview(piece).cast("B")
            while view:
                view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
