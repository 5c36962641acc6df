"""One daemon to a home: a lock that ends with its process, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from discod.errors import AlreadyRunning
from discod.store.files import saving


@contextmanager
def home_lock(state: Path) -> Iterator[None]:
    """Hold the home whose state directory this is. Raises: AlreadyRunning naming the process that holds it."""
    path = state / "lock"
    with saving(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _taken(fd, state) from None
        with saving(path):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def _taken(fd: int, state: Path) -> AlreadyRunning:
    holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
    who = f"process {holder}" if holder.isdecimal() else "another process"
    return AlreadyRunning(
        f"discod runs in this home already: {who} holds {state}", "discod down, or use another --home"
    )
