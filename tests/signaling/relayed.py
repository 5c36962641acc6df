"""anna and bert, who may only dial out, linked through the relay of a node."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from discod.p2p.mesh import Mesh, Settings
from discod.p2p.websocket import SignalingAt
from discod.wire.links import BulkHeader
from tests.signaling.test_server import Pair, pump


class Couple:
    """Both, and what their meshes told."""

    def __init__(self, pair: Pair, anna: Mesh, bert: Mesh) -> None:
        self.pair, self.anna, self.bert = pair, anna, bert
        self.told: list[object] = []
        self.news = trio.Condition()

    async def until(self, met: Callable[[], bool]) -> None:
        """Wait for events until it is so."""
        async with self.news:
            while not met():
                await self.news.wait()

    def send(self, data: bytes) -> None:
        """A bulk transfer from anna to bert."""
        self.anna.send_bulk(self.pair.b.peer_id, BulkHeader(b"", b"", "piece", 0, len(data)), data)


@asynccontextmanager
async def couple(at: SignalingAt, *others: SignalingAt) -> AsyncIterator[Couple]:
    """Linked, at the first of these nodes; their link is relayed."""
    pair = Pair(at)
    anna, bert = (Mesh(who, name, Settings(listen="off")) for who, name in ((pair.a, "anna"), (pair.b, "bert")))
    bert.expect = lambda peer, header: memoryview(bytearray(header.size))
    anna.add_mesh(pair.members, [at, *others])
    two = Couple(pair, anna, bert)
    async with trio.open_nursery() as nursery:
        for mesh in (anna, bert):
            await nursery.start(mesh.run)
            nursery.start_soon(pump, mesh, two.told, two.news)
        with trio.fail_after(30):
            await bert.join(pair.link, "bert")
            await two.until(lambda: pair.b.peer_id in anna.linked() and pair.a.peer_id in bert.linked())
        yield two
        nursery.cancel_scope.cancel()
