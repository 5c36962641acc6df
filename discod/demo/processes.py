"""The demo's processes: a signaling node, daemons, and the commands a person would type; none outlives the demo.

Every process gets a session of its own and its number goes to the keeper before anything else happens, so that it ends
with the demo however that ends. A command is `discod WORDS --json` in a process; its envelope is its result.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from discod.client import error_from
from discod.demo import keeper
from discod.errors import TimedOut, UserError

COMMAND_SECONDS = 60.0
READY_SECONDS = 30.0
LOOK_SECONDS = 0.05
DISCOD = (sys.executable, "-m", "discod")


class Cast:
    """All processes of one demo."""

    def __init__(self, keep: trio.Process) -> None:
        self._keeper = keep
        self._processes: list[trio.Process] = []
        self._telling = trio.Lock()  # the keeper, of one process at a time

    async def start(self, words: Sequence[str], log: Path) -> trio.Process:
        """Start `discod WORDS` in the background; what it says goes to `log`."""
        with log.open("ab") as out:
            process = await trio.lowlevel.open_process(
                [*DISCOD, *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment(),
            )
        self._processes.append(process)
        assert self._keeper.stdin is not None
        async with self._telling:
            await self._keeper.stdin.send_all(f"{process.pid}\n".encode())
        return process

    async def end(self) -> None:
        """End all of them: ask, wait, insist; all are reaped when this returns."""
        for process in reversed(self._processes):
            keeper.tell(process.pid, signal.SIGTERM)
        with trio.move_on_after(keeper.GRACE_SECONDS):
            for process in self._processes:
                await process.wait()
        for process in self._processes:
            keeper.tell(process.pid, signal.SIGKILL)
            await process.wait()


@asynccontextmanager
async def open_cast(root: Path) -> AsyncIterator[Cast]:
    """The processes of the block; all are gone when it ends, and `root` too if this process is killed."""
    keep = await trio.lowlevel.open_process(
        [sys.executable, "-I", keeper.__file__, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    cast = Cast(keep)
    try:
        yield cast
    finally:
        with trio.CancelScope(shield=True):
            await cast.end()
            assert keep.stdin is not None
            await keep.stdin.aclose()
            await keep.wait()


async def command(home: Path, *words: str, stdin: str = "") -> Any:
    """Run `discod WORDS --json` in `home`; the `data` of its envelope.

    Raises: UserError as the command reported it. Cancelled: the command is killed.
    """
    with trio.move_on_after(COMMAND_SECONDS) as scope:
        done = await trio.run_process(
            [*DISCOD, *words, "--json", "--home", str(home)],
            stdin=stdin.encode(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=environment(),
        )
    if scope.cancelled_caught:
        raise TimedOut(f"discod {' '.join(words)} took longer than {COMMAND_SECONDS:.0f} s")
    return _data(words, done)


def _data(words: Sequence[str], done: subprocess.CompletedProcess[bytes]) -> Any:
    import json

    try:
        answer = json.loads(done.stdout.splitlines()[-1])
        if answer["ok"]:
            return answer["data"]
        raise error_from(answer)
    except (ValueError, KeyError, IndexError, TypeError):
        said = done.stderr.decode(errors="replace").strip()[-500:]
        raise UserError(f"discod {' '.join(words)} ended with {done.returncode}: {said or 'no answer'}") from None


def environment() -> dict[str, str]:
    """This process's environment without what would send a child to another home or mesh."""
    return {name: value for name, value in os.environ.items() if name not in ("DISCOD_HOME", "DISCOD_INVITE")}


async def until(ready: Any, process: trio.Process, what: str, log: Path) -> None:
    """Wait until `ready()` (asked in a thread) says yes.

    Raises: UserError with the end of the log if the process ends first, TimedOut if neither happens in time.
    """
    with trio.move_on_after(READY_SECONDS):
        while process.poll() is None:
            if await trio.to_thread.run_sync(ready):
                return
            await trio.sleep(LOOK_SECONDS)
        raise UserError(f"{what} ended while it started:\n{tail(log)}", "run the demo again with -v")
    raise TimedOut(f"{what} was not ready within {READY_SECONDS:.0f} s:\n{tail(log)}", "is the machine busy?")


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
