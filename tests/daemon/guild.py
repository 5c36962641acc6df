"""Federated exchanges and the node they push to, in memory: real stores, a real depot, no sockets and no threads.

The members and the connections are those of tests/signaling/hosted.py. The test is the trainer.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import trio

from discod.daemon.charging import Charging
from discod.daemon.federated import FederatedExchange
from discod.daemon.routing import scope_of
from discod.errors import Broken
from discod.identity import Identity, Members, make_offer, show_id
from discod.p2p.websocket import SignalingAt
from discod.store import Store, open_store
from discod.train.rounds import JointState
from discod.train.task import AggregationSpec, TaskSpec, encode_task
from discod.train.vector import Vector
from discod.wire.federated import FederatedSpec
from tests.daemon.circle import D, task_of
from tests.signaling.hosted import ANNA, BERT, CARL, HOST, NODE, Line, Node, a_mesh

AT = SignalingAt(f"ws://{HOST}", NODE.peer_id)
PEOPLE = {"anna": ANNA, "bert": BERT, "carl": CARL}


def hosted_task(min_peers: int = 2, **rule: Any) -> TaskSpec:
    """The small task of circle.py, hosted by NODE."""
    task = task_of(min_peers)
    spec = FederatedSpec(node=show_id(NODE.peer_id), **rule)
    return msgspec.structs.replace(task, scheme="federated", aggregation=AggregationSpec("mean"), federated=spec)


async def until(condition: Callable[[], bool], seconds: float = 200.0) -> None:
    """Look again twice a second of the test's clock."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110  (no real time passes)
            await trio.sleep(0.5)


class Town:
    """What an exchange asks of its Mesh: the way to the node, which may be away."""

    def __init__(self, node: Node) -> None:
        self.node, self.away, self.lines = node, False, list[Line]()

    def nodes(self, mesh: bytes) -> tuple[SignalingAt, ...]:
        return (SignalingAt("ws://elsewhere:1", bytes(32)), AT)

    async def call(self, at: SignalingAt, nursery: trio.Nursery) -> Line:
        await trio.lowlevel.checkpoint()
        if self.away:
            raise Broken(None, "connection refused")
        self.lines.append(self.node.connect())
        return self.lines[-1]

    async def fall(self) -> None:
        """The node is killed: its connections are gone, the file is as it was."""
        self.away = True
        for line in self.lines:
            await line.aclose()
        await self.node.settled()

    async def keep_time(self) -> None:
        """The node's clock runs with the test's, and it makes the versions that time makes."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.node.depot.watch)
            while True:
                await trio.sleep(1)
                self.node.now += 1

    def rise(self) -> None:
        """It is there again, with what was on disk."""
        self.node.open()
        self.away = False


class Apprentice:
    """One peer: its store, its exchange, and the parameters that the test trains."""

    def __init__(self, name: str, who: Identity, task: TaskSpec, town: Town, directory: Path, first: Vector) -> None:
        self.name, self.who, self.task, self.town, self.first = name, who, task, town, first
        self.members: Members = a_mesh()
        self.members.add(make_offer(ANNA, self.members.mesh_id, encode_task(task), 5))
        self.store: Store = open_store(directory)
        self.notes: list[tuple[str, dict[str, Any]]] = []
        self.scope = scope_of(self.members.mesh_id, task.id)
        self.parameters, self.batches = first.copy(), 0
        self._running = trio.CancelScope()

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        """A new exchange over this store, until it is stopped."""
        net: Any = self.town
        self.exchange = FederatedExchange(
            task=self.task,
            scope=self.scope,
            members=self.members,
            mesh=net,
            identity=self.who,
            store=self.store,
            initial_parameters=self.first,
            min_peers=self.task.min_peers,
            notify=lambda event, fields: self.notes.append((event, fields)),
            charging=Charging(self.task),
            jitter=random.Random(self.name),
        )
        self.parameters = self.exchange.set_out().copy()
        with trio.CancelScope() as self._running:
            await self.exchange.run(task_status=task_status)

    def stop(self) -> None:
        self._running.cancel()

    @property
    def is_in(self) -> bool:
        """Whether the node has let it in."""
        return self.exchange.status().phase != "away"

    async def begin(self) -> JointState | None:
        return self._take(await self.exchange.round_begin())

    async def share(self, step: float, weight: int = 100) -> JointState | None:
        """A round of training has moved every parameter by `step`."""
        self.parameters += np.float32(step)
        self.batches += self.task.round_duration
        self.exchange.batches = self.batches
        return self._take(await self.exchange.round_end(self.parameters, weight))

    def _take(self, state: JointState | None) -> JointState | None:
        if state is not None:
            self.parameters[...] = state.parameters
        return state

    def told(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.notes if name == event]

    @property
    def value(self) -> float:
        """Of the base, the same everywhere."""
        assert len(set(self.exchange.parameters.tolist())) == 1
        return float(self.exchange.parameters[0])


class Guild:
    """The peers in order, the node, and the way there."""

    def __init__(self, node: Node, town: Town, peers: Sequence[Apprentice], nursery: trio.Nursery) -> None:
        self.node, self.town, self.peers, self._nursery = node, town, list(peers), nursery

    async def open(self, *peers: Apprentice) -> None:
        """Exchanges for these peers (all), which the node lets in unless it is away."""
        for peer in peers or self.peers:
            await self._nursery.start(peer.serve)
        await self.let_in(*peers)

    async def let_in(self, *peers: Apprentice) -> None:
        if not self.town.away:
            await until(lambda: all(peer.is_in for peer in peers or self.peers))


@asynccontextmanager
async def guild(directory: Path, count: int, task: TaskSpec, first: float = 0.0) -> AsyncIterator[Guild]:
    """`count` peers with open exchanges."""
    (directory / "node").mkdir()
    start = np.full(D, first, np.float32)
    peers: list[Apprentice] = []
    try:
        async with trio.open_nursery() as nursery:
            node = Node(directory / "node", nursery)
            town = Town(node)
            for name in list(PEOPLE)[:count]:
                peers.append(Apprentice(name, PEOPLE[name], task, town, directory / name, start))
            made = Guild(node, town, peers, nursery)
            await made.open()
            yield made
            nursery.cancel_scope.cancel()
    finally:
        for peer in peers:
            peer.store.close()
