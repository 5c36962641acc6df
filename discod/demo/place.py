"""The demo's temporary root: one directory of mode 0700 with a home per peer, locked as long as its demo lives.

A lock ends with the process that holds it, however it ends; so a root that nobody locks belongs to a demo that was
killed, and the next demo removes it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "discod-demo-"
LOCK = "owner.lock"


@contextmanager
def temporary_root(parent: Path | None = None) -> Iterator[Path]:
    """A new root under `parent` (default: the system's temporary directory), removed at the end of the block."""
    parent = parent or Path(tempfile.gettempdir())
    remove_abandoned(parent)
    root = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    with (root / f".{LOCK}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.rename(lock.name, root / LOCK)  # nobody ever sees it unlocked while we live
        try:
            yield root
        finally:
            shutil.rmtree(root, ignore_errors=True)


def remove_abandoned(parent: Path) -> list[Path]:
    """Remove this user's roots whose demo is gone; the roots removed."""
    return [root for root in parent.glob(PREFIX + "*") if _abandoned(root) and _remove(root)]


def _abandoned(root: Path) -> bool:
    try:
        if root.is_symlink() or root.lstat().st_uid != os.getuid():
            return False
        with (root / LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # locked by its demo, not ready yet, or gone meanwhile
        return False
    return True


def _remove(root: Path) -> bool:
    shutil.rmtree(root, ignore_errors=True)
    return not root.exists()
