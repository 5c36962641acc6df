"""A depot and its visitors without sockets: each visit's messages go through two channels; nothing waits for a thread.

`Member` speaks as a daemon does (discod.p2p.hosting); what a daemon never says is sent by hand.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import trio

from discod.errors import Broken, PeerError
from discod.identity import (
    Identity,
    Members,
    found_mesh,
    make_admit,
    make_invite,
    make_membership,
    make_offer,
    parse_record,
    show_id,
)
from discod.p2p.hosting import Hosting, NewVersion, Stay
from discod.p2p.rendezvous import own_records
from discod.train.task import AggregationSpec, TaskSpec, encode_task
from discod.train.templates import builtin_task
from discod.wire.codec import MAX_SIGNALING_BYTES, decode, encode
from discod.wire.federated import Enter, FederatedSpec, Offer, Pushed, Show, hosted_scope
from discod.wire.signaling import Denied, Knock
from signaling.depot import Depot, Visit
from signaling.lobby import Lobby, Tell
from signaling.server import said

FLOATS = 5
ORIGIN = b"o" * 32


def identity(n: int) -> Identity:
    return Identity.from_seed(bytes([n]) * 32)


NODE, ROOT, KEY = identity(1), identity(2), identity(3)
ANNA, BERT, CARL, DORA = people = [identity(n) for n in (11, 12, 13, 14)]  # dora is invited, and admitted by nobody
HOST = "signal.example.org:8765"


def a_mesh() -> Members:
    """anna made it, admitted bert, and bert carl."""
    members = Members(ROOT.public)
    for record in found_mesh(ROOT, ANNA, "m", "anna", 0, bytes(32)):
        members.add(record)
    members.add(make_invite(ROOT, KEY.public, uses=3, expires=1000))
    for slot, (who, by) in enumerate(((BERT, ANNA), (CARL, BERT), (DORA, None))):
        membership = make_membership(KEY, who, members.mesh_id, f"p{slot}", slot=slot, now=1)
        members.add(membership)
        if by is not None:
            members.add(make_admit(by, parse_record(membership), 2))
    return members


MEMBERS = a_mesh()


def a_task(node: Identity = NODE, **rule: Any) -> TaskSpec:
    spec = builtin_task("digits", 2)
    return msgspec.structs.replace(
        spec,
        scheme="federated",
        aggregation=AggregationSpec("mean"),
        federated=FederatedSpec(node=show_id(node.peer_id), **rule),
    )


async def in_place(work: Callable[..., Any], *args: Any, **_: Any) -> Any:
    """trio.to_thread.run_sync without a thread."""
    await trio.lowlevel.checkpoint()
    return work(*args)


class Line:
    """The visitor's end of a connection."""

    local_host = ""

    def __init__(self, outgoing: trio.MemorySendChannel[bytes], incoming: trio.MemoryReceiveChannel[bytes]) -> None:
        self._out, self._in = outgoing, incoming

    async def send(self, data: bytes) -> None:
        try:
            await self._out.send(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise Broken(None, "closed") from None

    async def receive(self) -> bytes:
        try:
            return await self._in.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise Broken(None, "closed") from None

    async def aclose(self) -> None:
        await self._out.aclose()
        await self._in.aclose()


class Member:
    """One that has entered."""

    def __init__(self, who: Identity, line: Line, hosting: Hosting, last: int, version: int) -> None:
        self.who, self.line, self.hosting, self.last, self.version = who, line, hosting, last, version

    async def push(self, seq: int, base: int, *values: float, since: int = 0, weight: int = 1) -> Pushed:
        """Offer, and push if it is welcome."""
        vector = np.full(FLOATS, values[0] if values else 1.0, "<f4").tobytes()
        offer = Offer(seq, base, since, len(vector))
        answer = await self.hosting.offer(offer)
        if isinstance(answer, Pushed):
            return answer
        return await self.hosting.push(offer, weight, vector, sha256(vector).digest())

    async def pull(self, version: int, *, wait: bool = False) -> tuple[int, float] | None:
        """Number and first value of what is newer."""
        found = await self.hosting.pull(version, wait=wait)
        return (
            (found.said.version, float(np.frombuffer(found.total, "<f4")[0])) if isinstance(found, NewVersion) else None
        )


class Node:
    """The depot in a directory, and a clock that the test sets."""

    def __init__(self, directory: Path, nursery: trio.Nursery) -> None:
        self.directory, self.nursery, self.now = directory, nursery, 100.0
        self.lobby = Lobby(NODE, lambda: secrets.token_bytes(16))
        self.published: dict[bytes, bytes] = {}
        self.guests = 0
        self.open()

    def open(self) -> None:
        """A depot on what is on disk, as after a kill."""
        self.depot = Depot(NODE, self.directory, lambda: self.now, lambda mesh: self.published)

    def connect(self) -> Line:
        """A connection that has said nothing yet."""
        self.guests += 1
        there, incoming = trio.open_memory_channel[bytes](8)
        outgoing, here = trio.open_memory_channel[bytes](8)
        self.nursery.start_soon(self._serve, self.guests, incoming, outgoing)
        return Line(there, here)

    async def _serve(self, guest: int, incoming: Any, outgoing: Any) -> None:
        self.lobby.connect(guest, f"10.0.0.{guest}", self.now)
        async with incoming, outgoing:
            try:
                async for data in incoming:
                    message = decode(said, data, MAX_SIGNALING_BYTES)
                    if isinstance(message, Knock):
                        for effect in self.lobby.receive(guest, message, self.now):
                            assert isinstance(effect, Tell)
                            await outgoing.send(encode(effect.message))
                    else:
                        assert isinstance(message, Show | Enter)
                        nonce, host = self.lobby.visit(guest, self.now)
                        await Visit(self.depot, nonce, host, incoming.receive, outgoing.send).run(message)
            except PeerError as error:
                await outgoing.send(encode(Denied("broken", error.why, b"")))
            except (trio.EndOfChannel, trio.ClosedResourceError, trio.BrokenResourceError):
                return

    async def enter(
        self,
        who: Identity,
        task: TaskSpec,
        *,
        floats: int = FLOATS,
        origin: bytes = ORIGIN,
        own: tuple[bytes, ...] | None = None,
        everything: bool = True,
        members: Members = MEMBERS,
        by: Identity = ANNA,
    ) -> Member:
        """Raises: Turned, Broken."""
        line = self.connect()
        offer = make_offer(by, members.mesh_id, encode_task(task), 5)
        scope = hosted_scope(members.mesh_id, encode_task(task))
        stay = Stay(members.mesh_id, scope, offer, origin, floats)
        hosting = Hosting(line, who, HOST, NODE.peer_id, stay)
        shown = own_records(members, who.public) if own is None else own
        entered = await hosting.enter(shown, members.records() if everything else (), self.now)
        return Member(who, line, hosting, entered.last, entered.version)

    async def settled(self) -> None:
        """Until nobody has anything left to do."""
        await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def node(directory: Path) -> AsyncIterator[Node]:
    """A node whose visits end with the block."""
    async with trio.open_nursery() as nursery:
        yield Node(directory, nursery)
        nursery.cancel_scope.cancel()
