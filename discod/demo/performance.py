"""One performance of the demo from start to result, and what is left of it.

Figures are defined in docs/tutorial.md's last section: accuracy, best_alone and pooled are measured on rows that are in
nobody's share; a peer's bytes are those its daemon counted on its links.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import trio

from discod.client import error_from
from discod.demo import alone, audit, play
from discod.demo.board import Board, Row
from discod.demo.place import temporary_root
from discod.demo.processes import Cast, open_cast
from discod.demo.view import Screen
from discod.errors import UserError
from discod.train.datasets import sample
from discod.train.task import TaskSpec
from discod.train.taskfile import dump_task

LEFT = "discod-demo"  # in the working directory; replaced by the next demo
SAMPLE_FILE = "sample.npz"
HELD_OUT = "held-out"
SAMPLE_ROWS = 5
DRAW_SECONDS = 0.1
NOISE = ("q", "z", "steps", "delta")  # what is shown of the peer with the largest epsilon
RUN_SECONDS = 1800.0  # no demo is meant to take longer


class Figures(msgspec.Struct):
    """The demo's result, as the last line of `discod demo --json` gives it."""

    task: str
    scheme: str
    aggregator: str
    epsilon: float | None
    peers: int
    rounds: int
    accuracy: float
    best_alone: float
    pooled: float
    seconds: float
    bytes_up_per_peer: int
    raw_rows_sent: int
    model_sha256: list[str]
    paths: list[str]
    privacy: dict[str, Any] | None
    refused_pushes: float | None = None  # part of all, of a federated demo


class Played(NamedTuple):
    """The result, and what the same peers reach together without noise; None where there is none."""

    figures: Figures
    without_noise: float | None


async def perform(task: TaskSpec, plain: TaskSpec, count: int, screen: Screen, keep: Path | None) -> Played:
    """Play the demo of `task` with `count` peers; leave model and sample in `keep` unless it is None.

    `plain` is the same task without noise, with as many steps: what is trained apart, to compare.

    Raises: UserError as whatever failed reported it. Cancelled: no process and no home is left.
    """
    began = time.monotonic()
    with temporary_root() as root:
        async with open_cast(root) as cast:
            crew = play.peers(root, task.name, count)
            board, task = await _set_up(cast, crew, root, task, screen)
            apart = Apart()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_measure_apart, plain, crew, board, apart, task.privacy.unit != "none")
                runs = await _train(crew, board, task, screen)
            figures = await _result(crew, runs, task, apart)
            if task.scheme == "federated":
                figures.refused_pushes = round(board.refused / max(1, board.refused + board.pushed), 3)
            figures.seconds = round(time.monotonic() - began, 1)
            if keep is not None:
                await _leave(crew[0], task, keep)
    return Played(figures, apart.together)


async def _set_up(
    cast: Cast, crew: list[play.Peer], root: Path, task: TaskSpec, screen: Screen
) -> tuple[Board, TaskSpec]:
    """Everybody is there, in one mesh, and the task is published; with the key of the node in it, if that hosts it."""
    hosted = task.scheme == "federated"
    counts: dict[str, int] = {}
    addresses: list[str] = []

    async def settle(peer: play.Peer) -> None:
        counts[peer.name] = await play.settle(cast, peer)

    async def open_signaling() -> None:
        address, key = await play.open_signaling(cast, root, hosting=hosted)
        addresses.extend((address, key))
        screen.say(f"  signaling {address}")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_signaling)
        for peer in crew:
            nursery.start_soon(settle, peer)
    if hosted:
        task = msgspec.structs.replace(task, federated=msgspec.structs.replace(task.federated, node=addresses[1]))
    file = root / f"{task.name}.toml"
    file.write_text(dump_task(task))
    await play.meet(crew, addresses[0], file)
    return Board([Row(peer.name, _share(peer, counts[peer.name])) for peer in crew], task.rounds), task


def _share(peer: play.Peer, rows: int) -> str:
    labels = sample(peer.sample).labels
    return f"{rows} ({labels.min()}-{labels.max()})"


async def _train(crew: list[play.Peer], board: Board, task: TaskSpec, screen: Screen) -> dict[str, int]:
    """All accept, and their runs go to the end; the runs' numbers by peer."""
    ears = play.Ears(crew)
    runs: dict[str, int] = {}

    async def accept(peer: play.Peer) -> None:
        runs[peer.name] = await play.accept(peer, task.name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch, ears, board, screen)
        for peer in crew:
            nursery.start_soon(accept, peer)
    return runs


async def _watch(ears: play.Ears, board: Board, screen: Screen) -> None:
    """Show what the daemons say until every run ended. Raises: UserError if one failed."""
    with trio.fail_after(RUN_SECONDS):
        while not board.finished:
            for name, event in ears.heard():
                _check(board.rows[name], event)
                board.receive(name, event)
            screen.draw(board)
            await trio.sleep(DRAW_SECONDS)


def _check(row: Row, event: dict[str, Any]) -> None:
    if event["type"] == "run.failed":
        error = error_from(event["error"])
        raise UserError(f"{row.name}: {error.message}", error.hint, code=error.code, exit=error.exit)
    if event["type"] == "daemon.lost" and not row.finished:
        raise UserError(f"the daemon of {row.name} is gone: {event['why']}", "run the demo again")


class Apart(msgspec.Struct):
    """Accuracies of what was trained without the others."""

    alone: dict[str, float] = {}
    pooled: float = 0.0
    together: float | None = None  # where the demo has noise


async def _measure_apart(task: TaskSpec, crew: list[play.Peer], board: Board, apart: Apart, noisy: bool) -> None:
    """Every peer alone, and all data in one place; as many steps each. All together too, where the demo has noise."""
    samples = [peer.sample for peer in crew]
    vectors = [await alone.train_alone(task, sample) for sample in [*samples, f"{task.name}:train"]]
    if noisy:
        vectors.append(await alone.train_together(task, samples))
    measured = await alone.measure(task, f"{task.name}:test", vectors)
    apart.together = measured.pop() if noisy else None
    *single, apart.pooled = measured
    for peer, accuracy in zip(crew, single, strict=True):
        apart.alone[peer.name] = board.rows[peer.name].alone = accuracy


async def _result(crew: list[play.Peer], runs: dict[str, int], task: TaskSpec, apart: Apart) -> Figures:
    states = [await _ask(peer, f"/v1/runs/{runs[peer.name]}") for peer in crew]
    seen = {peer.name: await _ask(peer, "/v1/peers") for peer in crew}
    await crew[0].type("data", "add", HELD_OUT, "--sample", f"{task.name}:test")
    measured = await crew[0].type("model", "evaluate", task.name, "--data", HELD_OUT)
    private = [state["privacy"] for state in states if state["privacy"] is not None]
    worst = max(private, key=lambda privacy: privacy["epsilon"], default=None)
    return Figures(
        task=task.name,
        scheme=task.scheme,
        aggregator=task.aggregator,
        epsilon=None if worst is None else round(worst["epsilon"], 3),
        peers=len(crew),
        rounds=states[0]["round"],
        accuracy=round(measured["accuracy"], 4),
        best_alone=round(max(apart.alone.values()), 4),
        pooled=round(apart.pooled, 4),
        seconds=0.0,
        bytes_up_per_peer=sum(state["bytes_up"] for state in states) // len(states),
        raw_rows_sent=audit.raw_rows(task, [peer for others in seen.values() for peer in others]),
        model_sha256=[state["model"]["hash"] for state in states],
        paths=audit.paths(seen),
        privacy=None if worst is None else {"unit": task.privacy.unit} | {name: worst[name] for name in NOISE},
    )


async def _ask(peer: play.Peer, route: str) -> Any:
    return await trio.to_thread.run_sync(peer.client.get, route)


async def _leave(peer: play.Peer, task: TaskSpec, keep: Path) -> None:
    """The joint model and rows to try it on, in place of what an earlier demo left there; nothing else is touched."""
    await trio.Path(keep).mkdir(exist_ok=True)
    await peer.type("model", "export", task.name, "-o", str(keep / f"{task.name}.safetensors"), "--force")
    rows = sample(f"{task.name}:test")
    chosen = np.linspace(0, len(rows) - 1, SAMPLE_ROWS).astype(int)
    np.savez(keep / SAMPLE_FILE, x=rows.inputs[chosen], y=rows.labels[chosen])
