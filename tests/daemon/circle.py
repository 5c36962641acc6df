"""Peers that train together with real exchanges, links, TLS and stores, in memory and on the test's clock.

Of a daemon there is all that an exchange deals with: Mesh, Listener, Router, Store. The network is that of
tests/p2p/village.py, the trainers are the tests. Work for threads is done at once (`in_place`): the clock would jump
while a thread works.
"""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import trio

from discod import ring
from discod.control.events import EventLog
from discod.daemon.exchange import DecentralizedExchange
from discod.daemon.listening import Listener
from discod.daemon.routing import Router, scope_of
from discod.daemon.schemes import make_exchange
from discod.identity import Identity, Members
from discod.p2p.mesh import LinkUp, Mesh, Settings
from discod.store import Store, open_store
from discod.train.layers import layout
from discod.train.rounds import JointState
from discod.train.task import AggregationSpec, DataSpec, ModelSpec, RoundSpec, TaskSpec, TrainingSpec
from discod.train.vector import Vector
from tests.p2p.pairs import identity
from tests.p2p.village import AT, ROOT, Village, acquainted

NAMES = ("anna", "bert", "carl", "dora")
D = 32  # dense1.weight (3, 2) and dense1.bias (2,), each with its gap


def task_of(
    min_peers: int, aggregator: Literal["mean", "secure", "median", "trimmed-mean"] = "mean", **aggregation: Any
) -> TaskSpec:
    """A small task; 100 samples weigh most."""
    task = TaskSpec(
        name="t",
        data=DataSpec(classes=2, shape=(3,)),
        model=ModelSpec("logreg"),
        training=TrainingSpec(batch_size=25),
        round=RoundSpec(rounds=9, round_duration=4, min_peers=min_peers),
        aggregation=AggregationSpec(aggregator, **aggregation),
    )
    assert layout(task).d == D
    return task


async def in_place(work: Callable[..., Any], *args: Any, **_: Any) -> Any:
    """trio.to_thread.run_sync without a thread."""
    await trio.lowlevel.checkpoint()
    return work(*args)


async def until(condition: Callable[[], bool], seconds: float = 100.0) -> None:
    """Look again every 10 ms of the test's clock."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110  (no real time passes)
            await trio.sleep(0.01)


class Peer:
    """One daemon's links and store, its exchange, and a trainer that does as it is told."""

    def __init__(
        self, village: Village, who: Identity, records: Iterable[bytes], task: TaskSpec, directory: Path, first: Vector
    ) -> None:
        self.who, self.id, self.task, self.directory, self.first = who, who.peer_id, task, directory, first
        self.members = Members(ROOT.public)
        for record in records:
            self.members.add(record)
        self.name = self.members.name(self.id)
        self.scope = scope_of(self.members.mesh_id, task.id)
        settings = Settings(listen="127.0.0.1:0", software="test")
        jitter = random.Random(self.name)
        self.mesh = Mesh(who, self.name, settings, network=village.network(), jitter=jitter, clock=trio.current_time)
        self.router = Router(self.id, self.mesh.send)
        self.router.know(self.scope, self.members.trainers)
        self.mesh.expect = self.router.expect
        self.mesh.add_mesh(self.members, [AT])
        self.log, self.notes = EventLog(), list[tuple[str, dict[str, Any]]]()
        self.store: Store = open_store(directory)
        self.parameters = first.copy()
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    # -- the daemon around an exchange

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        net: Any = SimpleNamespace(net=self.mesh, ids=list)
        tasks: Any = SimpleNamespace(newly_heard=lambda peer: [])
        others: Any = SimpleNamespace(last_seen={})
        listener = Listener(net, self.router, tasks, tasks, others, self.log, [])
        async with trio.open_nursery() as nursery:
            await nursery.start(self.mesh.run)
            nursery.start_soon(listener.listen)
            task_status.started()

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        """A new exchange over this store, until it ends or is stopped."""
        make: Any = make_exchange
        self.exchange: DecentralizedExchange = make(
            task=self.task,
            scope=self.scope,
            members=self.members,
            mesh=self.mesh,
            identity=self.who,
            store=self.store,
            initial_parameters=self.first,
            min_peers=self.task.min_peers,
            notify=lambda event, fields: self.notes.append((event, fields)),
        )
        self.parameters = self.exchange.set_out().copy()
        self.router.register(self.scope, self.exchange)
        self._scope, self._ended = trio.CancelScope(), trio.Event()
        try:
            with self._scope:
                for peer, info in self.mesh.linked().items():
                    self.exchange.deliver(LinkUp(peer, info.path))
                await self.exchange.run(task_status=task_status)
        finally:
            self.router.unregister(self.scope)
            self._ended.set()

    async def stop(self) -> None:
        """The exchange ends; links stay."""
        self._scope.cancel()
        await self._ended.wait()

    # -- the trainer

    async def begin(self) -> JointState | None:
        """Local training of a round starts, from a newer state if there is one."""
        newer = await self.exchange.round_begin()
        if newer is not None:
            self.parameters[...] = newer.parameters
        return newer

    async def share(self, step: Vector | float, weight: int = 100) -> JointState | None:
        """It has ended, `step` further on."""
        self.parameters += np.float32(step)
        state = await self.exchange.round_end(self.parameters, weight)
        if state is not None:
            self.parameters[...] = state.parameters
        return state

    # -- what can be seen

    def told(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.notes if name == event]

    @property
    def machine(self) -> Any:
        return self.exchange._machine

    def knows_that_all_train(self, others: Iterable[Peer]) -> bool:
        links = self.machine.calling.election.links
        return all(other.id in links and links[other.id].training for other in others if other is not self)


class Circle:
    """The peers, by name and in order."""

    def __init__(self, peers: list[Peer], nursery: trio.Nursery) -> None:
        self.peers, self._nursery = peers, nursery

    async def open(self, *peers: Peer) -> None:
        """Exchanges for these peers (all)."""
        for peer in peers or self.peers:
            await self._nursery.start(peer.serve)

    async def begin(self, *peers: Peer) -> None:
        """These (all) train, and know it of each other before anybody adverts: one roster, with all of them in it."""
        everybody = peers or tuple(self.peers)
        for peer in everybody:
            peer.machine.calling.mine.earliest = math.inf
            await peer.begin()
        await until(lambda: all(peer.knows_that_all_train(everybody) for peer in everybody))
        for peer in everybody:
            peer.machine.calling.mine.earliest = -math.inf
            peer.exchange._perform(peer.machine.tick(trio.current_time()))

    async def share(self, steps: Sequence[tuple[Peer, Vector | float, int]]) -> list[JointState | None]:
        """What these peers get for (peer, step, weight), all at once."""
        states: dict[int, JointState | None] = {}

        async def one(number: int, peer: Peer, step: Vector | float, weight: int) -> None:
            states[number] = await peer.share(step, weight)

        with trio.fail_after(1000):
            async with trio.open_nursery() as nursery:
                for number, each in enumerate(steps):
                    nursery.start_soon(one, number, *each)
        return [states[number] for number in range(len(steps))]


@asynccontextmanager
async def circle(
    directory: Path, count: int, task: TaskSpec, first: Vector | None = None, *, opened: bool = True
) -> AsyncIterator[Circle]:
    """`count` peers that are all linked, with exchanges unless `opened` is false."""
    people = {name: identity(n + 1) for n, name in enumerate(NAMES[:count])}
    village, records = Village(), acquainted(people)
    start = np.zeros(D, np.float32) if first is None else first
    peers = [Peer(village, who, records, task, directory / who.peer_id.hex()[:8], start) for who in people.values()]
    try:
        async with trio.open_nursery() as nursery:
            for peer in peers:
                await nursery.start(peer.run)
            await until(lambda: all(len(peer.mesh.linked_peers()) == count - 1 for peer in peers))
            made = Circle(peers, nursery)
            if opened:
                await made.open()
            yield made
            nursery.cancel_scope.cancel()
    finally:
        for peer in peers:
            peer.store.close()


def joined(
    base: Vector, bound: float, task: TaskSpec, updates: Sequence[tuple[Vector, int]], peers: int
) -> tuple[Vector, float]:
    """The next state and bound, by ring's codec: `updates` are (local (d,), samples), in a roster of `peers`."""
    codec, total = ring.Codec(peers, bound), np.zeros(len(base) + 1, np.uint32)
    cap = task.weight_cap
    for local, samples in updates:
        words = np.empty(len(base) + 1, np.uint32)
        full = task.weighting == "uniform"
        ring.encode(local, base, codec, ring.FULL_WEIGHT if full else ring.weight_word(samples, cap), words)
        total += words
    out = np.empty_like(base)
    return out, ring.apply_mean(base, total, codec, out).next_bound
