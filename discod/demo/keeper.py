"""The demo's keeper: ends the demo's processes and removes their homes when the demo itself was killed.

    demo -> keeper (its stdin)   "PID\\n" for each process started, then end of file: the demo is gone

A killed process runs no cleanup of its own, so somebody else must. The keeper holds the other end of a pipe: whatever
ends the demo closes it, on every system. Standard library only, started in a session of its own, so that Ctrl-C in the
terminal does not reach it. When the demo cleaned up by itself, nothing is left to do and the keeper says nothing.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable

GRACE_SECONDS = 5.0  # a daemon says Bye and stops its worker in this time
LOOK_SECONDS = 0.05


def alive(group: int) -> bool:
    """Whether any process of the group is left."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):  # gone, or the number belongs to somebody else by now
        return False
    return True


def end(groups: Iterable[int], grace_seconds: float = GRACE_SECONDS) -> None:
    """End process groups: ask, wait, insist. Those that are gone already are none of our business."""
    left = [group for group in groups if alive(group)]
    for group in left:
        tell(group, signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while (left := [group for group in left if alive(group)]) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    for group in left:
        tell(group, signal.SIGKILL)


def tell(group: int, number: signal.Signals) -> None:
    """Send a signal to a process group, if it is still there and ours."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return


def main() -> None:
    """Read process groups from stdin until the demo ends, then end them and remove the directory argv[1]."""
    groups = [int(line) for line in sys.stdin]
    end(groups)
    shutil.rmtree(sys.argv[1], ignore_errors=True)


if __name__ == "__main__":
    main()
