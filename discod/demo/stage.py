"""The demo from the outside: which task, on which screen, how it ends, and what it says in the end."""

from __future__ import annotations

import signal
from pathlib import Path
from shutil import which

import msgspec
import trio

from discod.demo.performance import LEFT, SAMPLE_FILE, Figures, perform
from discod.demo.view import Screen, open_screen
from discod.errors import Exit, UsageError, UserError, first_error
from discod.train.task import TaskSpec
from discod.train.templates import builtin_task

__all__ = ["LEFT", "Figures", "choose", "run", "summary"]

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def choose(name: str, peers: int, *, min_peers: int | None, rounds: int | None, seed: int | None) -> TaskSpec:
    """The built-in task with the demo's flags in it. Raises: UsageError when they contradict each other."""
    if min_peers is not None and min_peers > peers:
        raise UsageError(f"--min-peers {min_peers} can never be reached by {peers} peers", f"--peers {min_peers}")
    spec = builtin_task(name, min_peers or peers)
    rule = msgspec.structs.replace(spec.round, rounds=rounds or spec.rounds)
    return msgspec.structs.replace(spec, round=rule, seed=spec.seed if seed is None else seed)


def run(task: TaskSpec, peers: int, *, live: bool, color: bool, keep: Path | None) -> Figures:
    """Perform the demo; whatever ends it, no process and no temporary home is left.

    Raises: UserError as whatever failed reported it, or `interrupted` (exit 130 or 143) after a signal.
    """
    with open_screen(live, color) as screen:
        screen.say(f"discod demo · {task.title} · {peers} peers, {task.rounds} rounds of {task.round_duration} batches")
        try:
            return trio.run(_until_signal, task, peers, screen, keep)
        except BaseExceptionGroup as group:
            raise first_error(group) from group


async def _until_signal(task: TaskSpec, peers: int, screen: Screen, keep: Path | None) -> Figures:
    """The performance, or `interrupted` once it is cleaned up after the first signal."""
    got: list[int] = []
    with trio.open_signal_receiver(*STOPPING) as signals:
        async with trio.open_nursery() as nursery:

            async def stop() -> None:
                async for number in signals:
                    got.append(number)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(stop)
            figures = await perform(task, peers, screen, keep)
            nursery.cancel_scope.cancel()
    if got:
        ended = Exit.INTERRUPTED if got[0] == signal.SIGINT else Exit.TERMINATED
        raise UserError("the demo was stopped; nothing of it is left", code="interrupted", exit=ended)
    return figures


def summary(figures: Figures, keep: Path | None) -> str:
    """The end of the demo for the eye, with a command that works."""
    lines = [
        f"done in {figures.seconds:.0f} s.  Together {figures.accuracy:.3f}; best peer alone {figures.best_alone:.3f}; "
        f"all data in one place {figures.pooled:.3f}.  Raw rows that left a machine: {figures.raw_rows_sent}"
    ]
    if keep is not None:
        model, sample = keep / f"{figures.task}.safetensors", keep / SAMPLE_FILE
        lines += [f"model: {model}", f"try: {invocation()} model predict {model} {sample}"]
    return "\n".join(lines)


def invocation() -> str:
    """How discod is called here: by name where the name is in PATH, else through the launcher."""
    return "discod" if which("discod") else "python3 run.py discod"
