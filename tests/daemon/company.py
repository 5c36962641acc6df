"""Real daemons in one process that train a task together: sockets on loopback, real exchanges, a worker for each."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import trio
from numpy.typing import NDArray

from discod.daemon.exchange import DecentralizedExchange
from discod.daemon.surroundings import Engine
from discod.store import DatasetRow, open_store
from discod.train.datasets import Dataset, load, split
from discod.train.task import TaskSpec
from discod.train.taskfile import dump_task
from discod.train.vector import Vector
from tests.daemon.conftest import Home, in_thread

ALIAS = "rows"
LOSSES = ("round.closed", "round.lost", "worker.died")  # of a round after the last one, which some have begun: no loss


class Part(NamedTuple):
    """One peer's rows, as its worker splits them."""

    training: Dataset
    validation: Dataset | None


class Outcome(NamedTuple):
    """What came of it."""

    states: list[dict[int, Vector]]  # by peer: round -> (d,) certified parameters
    bounds: list[dict[int, float]]  # by peer: round -> bound of the next one
    contributors: list[int]  # of each round, as the first peer was told
    accuracies: list[list[float]]  # by peer: after each round, on its own validation rows
    models: list[dict[str, Any]]  # by peer, as its control API shows it
    linked: list[dict[str, Any]]  # by peer: what it shows of its links


def add_rows(home: Home, task: TaskSpec, path: Path, inputs: NDArray[Any], labels: NDArray[Any]) -> Part:
    """Write a data file and add it to a home."""
    np.savez(path, x=inputs, y=labels)
    rows = load(path, task.data)
    with closing(open_store(home.paths.state)) as store:
        store.save_dataset(DatasetRow(ALIAS, str(path), None, rows.content_hash, len(rows), "", time.time()))
    return Part(*split(rows, task.training.validation_split, task.seed))


class _Watch:
    """Makes exchanges whose states are kept, round by round."""

    def __init__(self) -> None:
        self.states: dict[int, Vector] = {}
        self.bounds: dict[int, float] = {}

    def __call__(self, **fields: Any) -> DecentralizedExchange:
        def reached(phase: str, number: int) -> None:
            if phase == "adopted":
                self.states[number] = exchange.parameters.copy()
                self.bounds[number] = exchange._machine.chain.base.bound

        exchange = DecentralizedExchange(**fields, reached=reached)
        return exchange


async def train(homes: list[Home], signaling: str, task: TaskSpec, engine: Engine, seconds: float) -> Outcome:
    """All of them train `task` on what `add_rows` gave them, to its end. Raises: TooSlowError."""
    watches = [_Watch() for _ in homes]
    with trio.fail_after(seconds):
        async with AsyncExitStack() as stack:
            for home, watch in zip(homes, watches, strict=True):
                await stack.enter_async_context(home.up(engine=engine, exchange=watch))
            await _meet(homes, signaling, task)
            runs = [await home.post(f"/v1/tasks/{task.name}/accept", {"data": ALIAS}) for home in homes]
            for home, run in zip(homes, runs, strict=True):
                ended = await home.wait_for("run.finished", "run.failed", since=run["since"])
                assert ended["type"] == "run.finished", ended
            return await _outcome(homes, watches, task.rounds, [run["id"] for run in runs])


async def _meet(homes: list[Home], signaling: str, task: TaskSpec) -> None:
    """One mesh with all of them in it, in which the first has published the task."""
    first, *others = homes
    await first.post("/v1/meshes", {"name": "m", "signaling": signaling})
    invite = await first.post("/v1/invites", {"uses": len(others)})
    for home in others:
        op = await home.post("/v1/join", {"link": invite["link"]})
        await in_thread(home.client.wait_for_op, op["op"], op["since"])
    await first.post("/v1/tasks", {"toml": dump_task(task)})
    for home in others:
        await home.wait_for("task.published")


def _events(home: Home) -> list[dict[str, Any]]:
    return list(home.client.events(follow=False))


async def _outcome(homes: list[Home], watches: list[_Watch], rounds: int, runs: list[int]) -> Outcome:
    finished: list[list[dict[str, Any]]] = []
    for home in homes:
        events = await in_thread(_events, home)
        lost = [event for event in events if event["type"] in LOSSES and event.get("round", 0) <= rounds]
        assert lost == [], "a round that is lost makes another model"
        finished.append([event for event in events if event["type"] == "round.finished"])
    return Outcome(
        [watch.states for watch in watches],
        [watch.bounds for watch in watches],
        [event["peers"] for event in finished[0]],
        [[event["accuracy"] for event in events] for events in finished],
        [(await home.get(f"/v1/runs/{run}"))["model"] for home, run in zip(homes, runs, strict=True)],
        [peer for home in homes for peer in await home.get("/v1/peers") if peer["state"] == "linked"],
    )
