"""Secret files: made once, 0600, never overwritten, refused when others could have read them. Shell; bytes only."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from discod.errors import NoIdentity, PermissionProblem, UserError

MAX_SECRET_BYTES = 16_384


def write_new_secret(path: Path, content: bytes) -> None:
    """Create `path` with mode 0600 so that it holds all of `content` or does not exist, even after a crash.

    Written and fsynced beside it, then hard-linked into place: a link never replaces what is there.
    Raises: UserError (file-exists), PermissionProblem.
    """
    spare = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        _write_exclusive(spare, content)
        try:
            os.link(spare, path)
        finally:
            spare.unlink()
        fsync_directory(path.parent)
    except FileExistsError:
        raise UserError(
            f"{path} exists already and is kept", "move it away to make a new one", code="file-exists"
        ) from None
    except OSError as error:
        raise PermissionProblem(f"cannot write {path}: {error.strerror}", "choose a directory of your own") from None


def read_secret(path: Path) -> bytes:
    """Return the content of a secret file that only this user can read.

    Raises: NoIdentity when there is none, PermissionProblem when its mode or owner is wrong or it cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise NoIdentity(f"there is no key at {path}", "discod init") from None
    except OSError as error:
        raise PermissionProblem(f"cannot read {path}: {error.strerror}", f"chown and chmod 600 {path}") from None
    try:
        _refuse_shared(path, os.fstat(fd))
        return os.read(fd, MAX_SECRET_BYTES)
    finally:
        os.close(fd)


@contextmanager
def passing_file(directory: Path, content: bytes) -> Iterator[Path]:
    """Give `content` as a 0600 file in the private `directory` while the block runs: ssl reads keys from files."""
    path = directory / f".pass-{secrets.token_hex(8)}"
    _write_exclusive(path, content)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def fsync_directory(directory: Path) -> None:
    """Make names that were created, linked or renamed in `directory` survive a power cut."""
    fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_exclusive(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(fd)


def _refuse_shared(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise PermissionProblem(f"{path} is not a plain file", f"look at what is there: ls -l {path}")
    if status.st_uid != os.geteuid():
        why = f"{path} belongs to user {status.st_uid}, not to the user running discod ({os.geteuid()})"
        raise PermissionProblem(why, f"chown {os.geteuid()} {path}, or run discod as its owner")
    if stat.S_IMODE(status.st_mode) & 0o077:
        why = f"{path} has mode {stat.S_IMODE(status.st_mode):04o}: others on this machine may have read the key"
        raise PermissionProblem(why, f"chmod 600 {path}; if anyone else uses this machine, make a new identity")
