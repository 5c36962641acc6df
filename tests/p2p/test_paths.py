"""Relayed peers become direct ones, between two transfers, as soon as there is a way."""

from __future__ import annotations

import os
from hashlib import sha256

import trio
from trio.testing import MockClock

from discod.identity import make_addresses
from discod.p2p.mesh import BulkArrived, LinkDown, PathChanged, Received
from discod.wire.links import BulkHeader
from tests.p2p.test_mesh import RID, B, C, Three, post, three


async def relayed(t: Three) -> None:
    """Nobody can be dialled, so all are linked by relay."""
    t.village.closed |= {t.anna.mesh.port, t.bert.mesh.port, t.carl.mesh.port}
    await t.meet()
    assert t.anna.mesh.linked()[B.peer_id].path == "relay"


async def test_direct_path_replaces_the_relay_without_a_loss(autojump_clock: MockClock) -> None:
    async with three() as t:
        await relayed(t)
        assert t.anna.mesh.errors()[B.peer_id] == f"direct: 127.0.0.1:{t.bert.mesh.port}: connection refused"
        t.village.closed.clear()
        sent = 0
        while PathChanged(B.peer_id, "direct") not in t.anna.told:
            t.anna.mesh.send(B.peer_id, post(b"%d" % sent))
            sent += 1
            await trio.sleep(0.5)
        assert B.peer_id not in t.anna.mesh.errors()
        await t.bert.until(lambda: sum(isinstance(e, Received) for e in t.bert.told) == sent)
        assert t.bert.heard == [post(b"%d" % n) for n in range(sent)]
        assert not any(isinstance(e, LinkDown) for e in t.anna.told + t.bert.told)


async def test_a_transfer_under_way_ends_by_relay_and_the_next_goes_directly(autojump_clock: MockClock) -> None:
    parts = [os.urandom(2_000_000) for _ in range(3)]
    headers = [BulkHeader(RID, RID, "piece", number, len(part)) for number, part in enumerate(parts)]
    buffers = [bytearray(len(part)) for part in parts]
    sent: list[bool] = []
    async with three() as t:
        await relayed(t)
        t.village.node.bytes_per_second = 40_000  # 50 seconds each
        t.bert.mesh.expect = lambda peer, header: memoryview(buffers[header.chunk])
        for header, part in zip(headers, parts, strict=True):
            assert t.anna.mesh.send_bulk(B.peer_id, header, part, sent=sent.append)
        await trio.sleep(10)
        t.village.closed.clear()
        await t.anna.until(lambda: PathChanged(B.peer_id, "direct") in t.anna.told)
        assert t.anna.mesh.linked()[B.peer_id].path == "direct"
        await t.bert.until(lambda: sum(isinstance(e, BulkArrived) for e in t.bert.told) == 3)
        arrived = [e for e in t.bert.told if isinstance(e, BulkArrived)]
        assert [(e.header, e.digest) for e in arrived] == [
            (header, sha256(part).digest()) for header, part in zip(headers, parts, strict=True)
        ]
        assert buffers == parts
        assert sent == [True] * 3
        assert t.anna.mesh.linked()[B.peer_id].bytes_up["bulk"] == 2 * (2_000_000 + 8 * 5)  # the first went by relay
        assert not any(isinstance(e, LinkDown) for e in t.anna.told + t.bert.told)


async def test_relay_and_direct_follow_each_other_as_ways_come_and_go(autojump_clock: MockClock) -> None:
    async with three() as t:
        await relayed(t)
        for _ in range(3):
            t.village.closed.clear()
            await t.anna.until(lambda: t.anna.mesh.linked()[B.peer_id].path == "direct")
            t.village.closed |= {t.anna.mesh.port, t.bert.mesh.port, t.carl.mesh.port}
            t.anna.mesh.drop(B.peer_id, "the way is gone")
            await t.anna.until_linked(t.bert, path="relay")
        assert t.anna.mesh.send(B.peer_id, post(b"after"))
        await t.bert.until(lambda: t.bert.heard == [post(b"after")])


async def test_new_addresses_are_tried_at_once_though_retries_have_become_rare(autojump_clock: MockClock) -> None:
    out_only = {"listen": "off"}
    async with three(bert=out_only, carl=out_only) as t:
        await t.meet()
        await trio.sleep(1500)  # by now a relayed peer is dialled every five minutes
        assert t.bert.mesh.linked()[C.peer_id].path == "relay"
        port = await t.carl.mesh._network.listen("127.0.0.1:0", t.nursery, t.carl.mesh._accept)
        now = trio.current_time()
        entries = (f"127.0.0.1:{port}",)
        record = make_addresses(t.carl.mesh.identity, t.members.mesh_id, entries, seq=int(now * 1000), now=int(now))
        t.carl.mesh.publish(t.members.mesh_id, record)
        await t.bert.until(lambda: PathChanged(C.peer_id, "direct") in t.bert.told, seconds=5)
