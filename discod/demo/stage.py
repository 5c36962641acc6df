"""The demo from the outside: which task, on which screen, how it ends, and what it says in the end."""

from __future__ import annotations

import signal
from pathlib import Path
from shutil import which
from typing import Literal, NamedTuple

import msgspec
import trio

from discod.demo.performance import LEFT, SAMPLE_FILE, Figures, Played, perform
from discod.demo.view import Screen, open_screen
from discod.errors import Exit, UsageError, UserError, first_error
from discod.train.task import LEAST_SECURE, TaskSpec
from discod.train.templates import builtin_task
from discod.wire.federated import FederatedSpec

__all__ = ["LEFT", "Choice", "Figures", "Played", "choose", "run", "summary"]

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Choice(NamedTuple):
    """The demo's task, and the same without noise and with as many steps, to compare with."""

    task: TaskSpec
    plain: TaskSpec


def hosting(scheme: str, asynchronous: bool, cutoff: int | None) -> FederatedSpec | None:
    """The rules of a federated demo, which names its node once that runs; None for another.  Raises: UsageError."""
    if (asynchronous or cutoff is not None) and scheme != "federated":
        raise UsageError("--asynchronous and --cutoff are for --scheme federated", "--scheme federated --asynchronous")
    if cutoff is not None and not asynchronous:
        raise UsageError("a synchronous version takes no late updates: there is no cutoff", "--asynchronous")
    if scheme != "federated":
        return None
    return FederatedSpec(cutoff=cutoff or 0) if asynchronous else FederatedSpec(mode="synchronous")


def choose(
    name: str,
    peers: int,
    *,
    min_peers: int | None = None,
    rounds: int | None = None,
    seed: int | None = None,
    private: bool = True,
    aggregator: Literal["secure", "mean"] | None = None,
    hosting: FederatedSpec | None = None,
) -> Choice:
    """The built-in task with the demo's flags in it. Raises: UsageError when they contradict each other."""
    if hosting is not None:
        if aggregator == "secure":
            raise UsageError("in the federated scheme the node sees every update", "--scheme decentralized")
        aggregator = "mean"
        if hosting.mode == "asynchronous":  # all but one make a version, so that somebody is always late
            min_peers = min_peers or max(2, peers - 1)
    if aggregator == "secure" and (min_peers or peers) < LEAST_SECURE:
        raise UsageError(f"a secure sum needs {LEAST_SECURE} peers", "--peers 3, or --aggregator mean")
    if min_peers is not None and min_peers > peers:
        raise UsageError(f"--min-peers {min_peers} can never be reached by {peers} peers", f"--peers {min_peers}")
    spec, plain = (builtin_task(name, min_peers or peers, private=noisy) for noisy in (private, False))
    rule = msgspec.structs.replace(spec.round, rounds=rounds or spec.rounds)
    sums = msgspec.structs.replace(spec.aggregation, aggregator=aggregator or spec.aggregator)
    chosen = spec.seed if seed is None else seed
    task = msgspec.structs.replace(spec, round=rule, aggregation=sums, seed=chosen)
    if hosting is not None:
        task = msgspec.structs.replace(task, scheme="federated", federated=hosting)
    steps = max(1, rule.rounds * rule.round_duration // plain.round_duration)
    compared = msgspec.structs.replace(plain.round, rounds=steps)
    return Choice(task, msgspec.structs.replace(plain, round=compared, seed=chosen))


def run(choice: Choice, peers: int, *, live: bool, color: bool, keep: Path | None) -> Played:
    """Perform the demo; whatever ends it, no process and no temporary home is left.

    Raises: UserError as whatever failed reported it, or `interrupted` (exit 130 or 143) after a signal.
    """
    with open_screen(live, color) as screen:
        task = choice.task
        screen.say(f"discod demo · {task.title} · {peers} peers, {task.rounds} rounds of {task.round_duration} batches")
        try:
            return trio.run(_until_signal, choice, peers, screen, keep)
        except BaseExceptionGroup as group:
            raise first_error(group) from group


async def _until_signal(choice: Choice, peers: int, screen: Screen, keep: Path | None) -> Played:
    """The performance, or `interrupted` once it is cleaned up after the first signal."""
    got: list[int] = []
    with trio.open_signal_receiver(*STOPPING) as signals:
        async with trio.open_nursery() as nursery:

            async def stop() -> None:
                async for number in signals:
                    got.append(number)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(stop)
            played = await perform(*choice, peers, screen, keep)
            nursery.cancel_scope.cancel()
    if got:
        ended = Exit.INTERRUPTED if got[0] == signal.SIGINT else Exit.TERMINATED
        raise UserError("the demo was stopped; nothing of it is left", code="interrupted", exit=ended)
    return played


def summary(played: Played, keep: Path | None) -> str:
    """The end of the demo for the eye, with a command that works."""
    figures = played.figures
    lines = [
        f"done in {figures.seconds:.0f} s.  Together {figures.accuracy:.3f}; best peer alone {figures.best_alone:.3f}; "
        f"all data in one place {figures.pooled:.3f}.  Raw rows that left a machine: {figures.raw_rows_sent}"
    ]
    lines.append(_protection(played))
    if keep is not None:
        model, sample = keep / f"{figures.task}.safetensors", keep / SAMPLE_FILE
        lines += [f"model: {model}", f"try: {invocation()} model predict {model} {sample}"]
    return "\n".join(lines)


def _protection(played: Played) -> str:
    """What protected the updates, and what that cost."""
    figures = played.figures
    if figures.scheme == "federated":
        refused = f"; {100 * (figures.refused_pushes or 0):.0f} % of the pushes were refused"
        said = f"Updates: the node saw each of them{refused}."
    elif figures.aggregator == "secure":
        said = "Updates: masked, only their sum was opened; that secrecy costs 0 points."
    else:
        said = "Updates: each peer saw slices of the others' (aggregator mean)."
    if figures.epsilon is None or played.without_noise is None:
        return f"{said}  No noise was added."
    points = 100 * max(0.0, played.without_noise - figures.accuracy)
    return f"{said}  Noise: epsilon {figures.epsilon:.2f} for each row, at the cost of {points:.1f} points."


def invocation() -> str:
    """How discod is called here: by name where the name is in PATH, else through the launcher."""
    return "discod" if which("discod") else "python3 run.py discod"
