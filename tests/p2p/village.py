"""Daemons' meshes, a real lobby and the network between them, all in memory and on the test's clock."""

from __future__ import annotations

import errno
import math
import os
import random
from collections.abc import Callable
from typing import Any

import trio
from trio.testing import memory_stream_pair

from discod.errors import Broken
from discod.identity import (
    Identity,
    InviteLink,
    Members,
    found_mesh,
    make_admit,
    make_invite,
    make_link,
    make_membership,
    parse_link,
    parse_record,
)
from discod.p2p.dial import Accept
from discod.p2p.mesh import Mesh, Received, Settings, SignalingAt
from discod.p2p.websocket import Conversation
from discod.wire.codec import decode, encode
from discod.wire.signaling import to_node
from signaling.lobby import Close, Effect, Lobby, Splice, Tell
from tests.p2p.pairs import identity

NODE = identity(200)
AT = SignalingAt("ws://127.0.0.1:8765", NODE.peer_id)


class Wire:
    """One end of a conversation with the node; what it receives is what the lobby tells it."""

    def __init__(self, node: Node, guest: int) -> None:
        self.local_host = "127.0.0.1"
        self._node, self._guest = node, guest
        self.inbox, self._inbox = trio.open_memory_channel[bytes](10_000)

    async def send(self, data: bytes) -> None:
        await trio.sleep(len(data) / self._node.bytes_per_second)
        self._node.take(self._guest, data)

    async def receive(self) -> bytes:
        try:
            return await self._inbox.receive()
        except trio.EndOfChannel:
            raise Broken(None, "the signaling node closed the connection") from None

    async def aclose(self) -> None:
        self._node.hang_up(self._guest)


class Node:
    """A signaling node without sockets: the lobby, driven synchronously. The shell's test is tests/signaling."""

    def __init__(self, relay: bool = True) -> None:
        self.relay, self.alive, self.count = relay, True, 0
        self.bytes_per_second = math.inf  # of each connection
        self.wires: dict[int, Wire] = {}
        self.spliced: dict[int, int] = {}
        self.carried: list[bytes] = []
        self._fresh_lobby()

    def _fresh_lobby(self) -> None:
        self.lobby = Lobby(NODE, lambda: os.urandom(16), relay=self.relay)

    def call(self) -> Wire:
        if not self.alive:
            raise Broken(None, "cannot connect to 127.0.0.1:8765: connection refused")
        self.count += 1
        wire = self.wires[self.count] = Wire(self, self.count)
        self._perform(self.lobby.connect(self.count, "127.0.0.1", trio.current_time()))
        return wire

    def take(self, guest: int, data: bytes) -> None:
        if guest not in self.wires:
            raise Broken(None, "the signaling node closed the connection")
        if guest in self.spliced:
            self.carried.append(data)
            self.wires[self.spliced[guest]].inbox.send_nowait(data)
        else:
            self._perform(self.lobby.receive(guest, decode(to_node, data), trio.current_time()))

    def hang_up(self, guest: int) -> None:
        wire = self.wires.pop(guest, None)
        if wire is not None:
            wire.inbox.close()
            self._perform(self.lobby.lost(guest))
            other = self.spliced.pop(guest, None)
            if other is not None:
                self.hang_up(other)

    def die(self) -> None:
        self.alive = False
        for guest in list(self.wires):
            self.hang_up(guest)

    def rise(self) -> None:
        """Start again, knowing nothing."""
        self.alive = True
        self._fresh_lobby()

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Tell(guest=guest, message=message) if guest in self.wires:
                    self.wires[guest].inbox.send_nowait(encode(message))
                case Close(guest=guest, denied=denied) if guest in self.wires:
                    self.wires[guest].inbox.send_nowait(encode(denied))
                    self.hang_up(guest)
                case Splice(one=one, other=other):
                    self.spliced |= {one: other, other: one}


class Village:
    """Addresses and who listens there; `cut` pairs of ports cannot reach each other directly."""

    def __init__(self, relay: bool = True) -> None:
        self.node = Node(relay)
        self.doors: dict[int, tuple[trio.Nursery, Accept]] = {}
        self.closed: set[int] = set()  # ports behind a firewall
        self.streams: list[tuple[int, trio.abc.Stream, trio.abc.Stream]] = []

    def network(self) -> Lane:
        return Lane(self)


class Lane:
    """One daemon's Network."""

    def __init__(self, village: Village) -> None:
        self.village = village

    async def dial(self, address: str) -> trio.abc.Stream:
        port = int(address.rpartition(":")[2])
        await trio.sleep(0.01)
        if port in self.village.closed or port not in self.village.doors:
            raise Broken(None, "connection refused")
        ours, theirs = memory_stream_pair()
        self.village.streams.append((port, ours, theirs))
        nursery, accept = self.village.doors[port]
        nursery.start_soon(accept, theirs)
        return ours

    async def listen(self, address: str, nursery: trio.Nursery, accept: Accept) -> int:
        port = int(address.rpartition(":")[2]) or 40_000 + len(self.village.doors)
        if port in self.village.doors:
            raise OSError(errno.EADDRINUSE, "in use")
        await nursery.start(self._hold, port, nursery, accept)
        return port

    async def _hold(
        self, port: int, nursery: trio.Nursery, accept: Accept, *, task_status: trio.TaskStatus[None]
    ) -> None:
        self.village.doors[port] = (nursery, accept)
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            del self.village.doors[port]

    async def call(self, at: SignalingAt, nursery: trio.Nursery) -> Conversation:
        await trio.sleep(0.005)
        return self.village.node.call()


class Daemon:
    """A mesh with everything it told, for as long as the nursery lives."""

    def __init__(self, village: Village, who: Identity, name: str, **settings: Any) -> None:
        fields = {"listen": "127.0.0.1:0", "software": "test"} | settings
        jitter = random.Random(name)
        self.mesh = Mesh(
            who, name, Settings(**fields), network=village.network(), jitter=jitter, clock=trio.current_time
        )
        self.id, self.name = who.peer_id, name
        self.told: list[Any] = []
        self.scope = trio.CancelScope()
        self._news = trio.Event()

    async def start(self, nursery: trio.Nursery) -> None:
        await nursery.start(self._run)

    async def _run(self, *, task_status: trio.TaskStatus[None]) -> None:
        with self.scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.mesh.run)
                task_status.started()
                while True:
                    self.told.append(await self.mesh.events.receive())
                    self._news.set()
                    self._news = trio.Event()

    async def until(self, condition: Callable[[], bool], seconds: float = 100.0) -> None:
        """Wait for something that an event brings about."""
        with trio.fail_after(seconds):
            while not condition():
                await self._news.wait()

    @property
    def heard(self) -> list[Any]:
        """The messages that came."""
        return [event.message for event in self.told if isinstance(event, Received)]

    async def until_linked(self, *others: Daemon, path: str | None = None) -> None:
        def linked() -> bool:
            links = self.mesh.linked()
            return all(d.id in links and path in (None, links[d.id].path) for d in others)

        await self.until(linked)


ROOT, SEED = identity(100), bytes(range(32))


def founded(creator: Identity, name: str = "anna", now: int = 0) -> Members:
    members = Members(ROOT.public)
    for record in found_mesh(ROOT, creator, "oncology", name, now, bytes([9]) * 32):
        members.add(record)
    return members


def invite(uses: int = 2, expires: int = 10_000, approve: bool = False) -> bytes:
    return make_invite(ROOT, Identity.from_seed(SEED).public, uses=uses, expires=expires, approve=approve)


def acquainted(people: dict[str, Identity]) -> list[bytes]:
    """The records of a mesh that the first of these made and the others have been in for long."""
    (name, creator), *others = people.items()
    members = founded(creator, name)
    members.add(invite(uses=len(others)))
    for slot, (name, who) in enumerate(others):
        record = make_membership(Identity.from_seed(SEED), who, members.mesh_id, name, slot=slot, now=1)
        members.add(record)
        members.add(make_admit(creator, parse_record(record), 2))
    assert members.trainers() == {who.peer_id for who in people.values()}
    return members.records()


def link(node: bytes = NODE.peer_id, mesh: bytes = ROOT.peer_id) -> InviteLink:
    return parse_link(make_link("127.0.0.1", 8765, mesh, node, SEED, tls=False))
