"""Two peers that know each other, and streams in memory between them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio.testing import memory_stream_pair

from discod.identity import Identity
from discod.p2p.link import Link, greet
from discod.p2p.outbox import Outbox
from discod.p2p.transport import TlsStream
from discod.p2p.trust import Trust
from discod.wire.links import BulkHeader, LinkMessage, Welcome

WELCOME = Welcome(1, "test", "peer")


def identity(n: int) -> Identity:
    return Identity.from_seed(bytes([n]) * 32)


def trusting(me: Identity, *others: Identity) -> Trust:
    trust = Trust(me)
    trust.set_keys([other.public for other in others])
    return trust


def tls_pair(dialling: Trust, listening: Trust) -> tuple[TlsStream, TlsStream]:
    ours, theirs = memory_stream_pair()
    return TlsStream(ours, dialling.client, server_side=False), TlsStream(theirs, listening.server, server_side=True)


@asynccontextmanager
async def shaken(a: Identity, b: Identity) -> AsyncIterator[tuple[TlsStream, TlsStream]]:
    one, two = tls_pair(trusting(a, b), trusting(b, a))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.do_handshake)
        nursery.start_soon(two.do_handshake)
    yield one, two
    await one.aclose()
    await two.aclose()


async def greeted(a: Identity, b: Identity) -> tuple[Link, Link]:
    ours, theirs = memory_stream_pair()
    links: dict[str, Link] = {}

    async def one(name: str, stream: trio.abc.Stream, trust: Trust, dialling: bool) -> None:
        links[name] = await greet(stream, trust, WELCOME, "direct", dialling=dialling)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, "a", ours, trusting(a, b), True)
        nursery.start_soon(one, "b", theirs, trusting(b, a), False)
    return links["a"], links["b"]


class Collector:
    """A receiver that keeps what came and takes every transfer whose rid it has a buffer for."""

    def __init__(self) -> None:
        self.messages: list[LinkMessage] = []
        self.log: list[str] = []
        self.buffers: dict[bytes, bytearray] = {}
        self.digests: dict[bytes, bytes] = {}
        self.came = trio.Condition()

    async def received(self, link: Link, message: LinkMessage) -> None:
        self.messages.append(message)
        await self._note(type(message).__name__)

    async def expected(self, link: Link, header: BulkHeader) -> memoryview | None:
        buffer = self.buffers.get(header.rid)
        return memoryview(buffer) if buffer is not None else None

    async def arrived(self, link: Link, header: BulkHeader, digest: bytes) -> None:
        self.digests[header.rid] = digest
        await self._note("bulk")

    async def _note(self, what: str) -> None:
        async with self.came:
            self.log.append(what)
            self.came.notify_all()

    async def until(self, count: int) -> None:
        async with self.came:
            while len(self.log) < count:
                await self.came.wait()


class Running:
    """Two links that run, with their outboxes, receivers and, once ended, reasons."""

    def __init__(self, a: Link, b: Link) -> None:
        self.a, self.b = a, b
        self.outbox_a, self.outbox_b = Outbox(), Outbox()
        self.at_a, self.at_b = Collector(), Collector()
        self.why: dict[str, str] = {}

    async def run_a(self) -> None:
        self.why["a"] = await self.a.run(self.outbox_a, self.at_a)

    async def run_b(self) -> None:
        self.why["b"] = await self.b.run(self.outbox_b, self.at_b)


@asynccontextmanager
async def running(a: Identity, b: Identity) -> AsyncIterator[Running]:
    both = Running(*await greeted(a, b))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(both.run_a)
        nursery.start_soon(both.run_b)
        yield both
        nursery.cancel_scope.cancel()
