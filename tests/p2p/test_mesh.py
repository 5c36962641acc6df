from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from discod.errors import BadInvite, SignalingUnreachable, TimedOut
from discod.identity import Identity, Members, make_addresses, make_offer, make_revocation
from discod.p2p.mesh import (
    BulkArrived,
    LinkDown,
    LinkUp,
    Received,
    RecordsChanged,
    SignalingDown,
    SignalingUp,
    Warned,
)
from discod.wire.links import BulkHeader, Post, Refusal
from discod.wire.rounds import Signed
from tests.p2p.pairs import identity
from tests.p2p.village import AT, ROOT, SEED, Daemon, Village, founded, invite, link

A, B, C = identity(1), identity(2), identity(3)
RID = b"r" * 32


def post(text: bytes) -> Post:
    return Post(b"", Signed(text, bytes(64)))


class Three:
    """anna made the mesh; bert and carl join by her invite."""

    def __init__(self, village: Village, daemons: list[Daemon], members: Members, nursery: trio.Nursery) -> None:
        self.village, self.members, self.nursery = village, members, nursery
        self.anna, self.bert, self.carl = daemons

    @property
    def all(self) -> list[Daemon]:
        return [self.anna, self.bert, self.carl]

    async def meet(self) -> None:
        await self.bert.mesh.join(link(), "bert")
        await self.carl.mesh.join(link(), "carl")
        for one in self.all:
            await one.until_linked(*[other for other in self.all if other is not one])


@asynccontextmanager
async def three(relay: bool = True, **settings: dict[str, Any]) -> AsyncIterator[Three]:
    village, members = Village(relay), founded(A)
    daemons = [
        Daemon(village, who, name, **settings.get(name, {})) for who, name in ((A, "anna"), (B, "bert"), (C, "carl"))
    ]
    async with trio.open_nursery() as nursery:
        daemons[0].mesh.add_mesh(members, [AT])
        daemons[0].mesh.publish(members.mesh_id, invite())
        for daemon in daemons:
            await daemon.start(nursery)
        yield Three(village, daemons, members, nursery)
        nursery.cancel_scope.cancel()


async def test_two_newcomers_join_and_all_are_linked_directly(autojump_clock: MockClock) -> None:
    async with three() as t:
        await t.meet()
        for one in t.all:
            assert {info.path for info in one.mesh.linked().values()} == {"direct"}
            assert one.mesh.meshes[t.members.mesh_id].digest() == t.members.digest()
            assert SignalingUp(t.members.mesh_id, AT.url) in one.told
            assert RecordsChanged(t.members.mesh_id) in one.told
        assert t.bert.mesh.linked()[A.peer_id].name == "anna"
        assert t.bert.mesh.errors() == {}


async def test_newcomers_at_the_same_moment_get_a_slot_each(autojump_clock: MockClock) -> None:
    async with three() as t:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(t.bert.mesh.join, link(), "bert")
            nursery.start_soon(t.carl.mesh.join, link(), "carl")
        assert t.members.members() == {A.peer_id, B.peer_id, C.peer_id}


async def test_messages_and_bulk_go_through_in_order(autojump_clock: MockClock) -> None:
    data = os.urandom(600_000)
    buffer = bytearray(len(data))
    header = BulkHeader(b"s" * 32, RID, "piece", 0, len(data))
    told: list[bool] = []
    async with three() as t:
        await t.meet()
        # the buffer exists only once the message before the transfer was handled: the order must hold
        t.bert.mesh.expect = lambda peer, h: (
            memoryview(buffer) if t.bert.heard == [post(b"first")] and h == header else None
        )
        assert t.anna.mesh.send(B.peer_id, post(b"first"))
        assert t.anna.mesh.send_bulk(B.peer_id, header, data, sent=told.append)
        await t.bert.until(lambda: any(isinstance(e, BulkArrived) for e in t.bert.told))
        assert BulkArrived(A.peer_id, header, sha256(data).digest()) in t.bert.told
        assert buffer == data
        assert told == [True]
        assert t.anna.mesh.linked()[B.peer_id].bytes_up["bulk"] == len(data) + 3 * 5


async def test_unexpected_bulk_is_refused_by_name(autojump_clock: MockClock) -> None:
    async with three() as t:
        await t.meet()
        t.anna.mesh.send_bulk(B.peer_id, BulkHeader(b"s" * 32, RID, "sum", 0, 3), b"abc")
        refusal = Received(B.peer_id, Refusal(RID, "sum", "this transfer is not expected"))
        await t.anna.until(lambda: refusal in t.anna.told)
        assert t.bert.mesh.linked()[A.peer_id].messages_refused == 1


async def test_sending_to_nobody_says_so(autojump_clock: MockClock) -> None:
    async with three() as t:
        assert not t.anna.mesh.send(B.peer_id, post(b"x"))
        assert not t.anna.mesh.send_bulk(B.peer_id, BulkHeader(RID, RID, "sum", 0, 1), b"x")


async def test_broken_link_is_told_and_made_again(autojump_clock: MockClock) -> None:
    async with three() as t:
        await t.meet()
        t.anna.told.clear()
        t.anna.mesh.drop(B.peer_id, "a bad signature")
        await t.anna.until(lambda: LinkUp(B.peer_id, "direct") in t.anna.told)
        assert [e for e in t.anna.told if isinstance(e, LinkDown | LinkUp)] == [
            LinkDown(B.peer_id, "a bad signature"),
            LinkUp(B.peer_id, "direct"),
        ]


async def test_a_peer_whose_links_never_last_is_tried_less_and_less_often(autojump_clock: MockClock) -> None:
    async with three() as t:
        await t.meet()
        t.anna.told.clear()
        with trio.move_on_after(60):
            while True:
                seen = t.anna.told.count(LinkUp(B.peer_id, "direct"))
                t.anna.mesh.drop(B.peer_id, "it speaks another version")
                await t.anna.until(lambda seen=seen: t.anna.told.count(LinkUp(B.peer_id, "direct")) > seen)  # type: ignore[misc]  # its default
        assert 3 <= seen <= 15
        await t.anna.until_linked(t.bert)


async def test_stop_says_goodbye_to_all(autojump_clock: MockClock) -> None:
    async with three() as t:
        await t.meet()
        t.bert.scope.cancel()
        down = LinkDown(B.peer_id, "it said goodbye: it is stopping")
        await t.anna.until(lambda: down in t.anna.told)
        await t.carl.until(lambda: down in t.carl.told)


async def test_revoked_peer_loses_its_links_and_gets_none(autojump_clock: MockClock) -> None:
    async with three() as t:
        await t.meet()
        t.anna.mesh.publish(t.members.mesh_id, make_revocation(ROOT, "peer", C.public, 50))
        await t.anna.until(lambda: C.peer_id not in t.anna.mesh.linked())
        await t.bert.until(lambda: C.peer_id not in t.bert.mesh.linked())
        await trio.sleep(120)
        assert set(t.anna.mesh.linked()) == {B.peer_id}
        assert t.carl.mesh.linked() == {}


async def test_stranger_who_dials_is_turned_away(autojump_clock: MockClock) -> None:
    async with three() as t:
        stranger, members = Daemon(t.village, identity(7), "eve"), Members(ROOT.public)
        async with trio.open_nursery() as nursery:
            await stranger.start(nursery)
            await t.anna.until(lambda: bool(t.members.addresses(A.peer_id)))
            for record in t.members.records():
                members.add(record)
            stranger.mesh.add_mesh(members, [AT])
            await trio.sleep(60)
            why, present = stranger.mesh.errors()[A.peer_id], stranger.mesh.signaling()[members.mesh_id].connected
            nursery.cancel_scope.cancel()
        assert not present
        assert "does not take us for a member" in why
        assert A.peer_id not in t.anna.mesh.linked()
        assert stranger.mesh.linked() == {}


async def test_pair_without_a_direct_path_is_relayed_and_the_node_sees_ciphertext(autojump_clock: MockClock) -> None:
    out_only = {"listen": "off"}
    async with three(bert=out_only, carl=out_only) as t:
        await t.meet()
        assert {d.mesh.linked()[A.peer_id].path for d in (t.bert, t.carl)} == {"direct"}
        assert t.bert.mesh.linked()[C.peer_id].path == "relay"
        assert t.bert.mesh.errors() == {C.peer_id: "direct: it has told no address that can be dialled"}
        marker = b"MARKER" * 1000
        buffer = bytearray(len(marker))
        t.carl.mesh.expect = lambda peer, header: memoryview(buffer)
        t.bert.mesh.send(C.peer_id, post(b"MARKER in a message"))
        t.bert.mesh.send_bulk(C.peer_id, BulkHeader(RID, RID, "piece", 0, len(marker)), marker)
        await t.carl.until(lambda: any(isinstance(e, BulkArrived) for e in t.carl.told))
        assert buffer == marker
        carried = b"".join(t.village.node.carried)
        assert len(carried) > len(marker)
        assert b"MARKER" not in carried


async def test_nobody_dials_an_address_of_its_own_that_another_has_too(autojump_clock: MockClock) -> None:
    async with three() as t:
        await t.meet()
        own, theirs = (t.members.addresses(peer) for peer in (A.peer_id, C.peer_id))
        both = make_addresses(C, t.members.mesh_id, own + theirs, seq=1 << 60, now=0)  # two homes that number alike
        assert t.members.add(both)
        assert t.anna.mesh._addresses(C.peer_id) == list(theirs)
        assert t.anna.mesh._addresses(B.peer_id) == list(t.members.addresses(B.peer_id))


async def test_relay_that_is_off_is_a_named_error(autojump_clock: MockClock) -> None:
    out_only = {"listen": "off"}
    async with three(relay=False, bert=out_only, carl=out_only) as t:
        await t.bert.mesh.join(link(), "bert")
        await t.carl.mesh.join(link(), "carl")
        await t.bert.until_linked(t.anna)
        await trio.sleep(20)
        assert C.peer_id not in t.bert.mesh.linked()


async def test_never_relaying_peer_stays_unlinked_and_only_relaying_one_is_relayed(autojump_clock: MockClock) -> None:
    async with three(bert={"relay": "only"}, carl={"relay": "only"}) as t:
        await t.meet()
        assert {info.path for info in t.bert.mesh.linked().values()} == {"relay"}
        assert t.bert.mesh.errors()[A.peer_id] == "direct: this peer is set to be relayed only (network.relay)"
    async with three(bert={"relay": "never", "listen": "off"}, carl={"listen": "off"}) as t:
        await t.bert.mesh.join(link(), "bert")
        await t.carl.mesh.join(link(), "carl")
        await t.carl.until_linked(t.anna)
        await trio.sleep(60)
        assert C.peer_id not in t.bert.mesh.linked()


async def test_links_survive_the_node_and_all_are_present_again_when_it_returns(autojump_clock: MockClock) -> None:
    async with three() as t:
        await t.meet()
        t.village.node.die()
        await t.anna.until(lambda: any(isinstance(e, SignalingDown) for e in t.anna.told))
        assert t.anna.mesh.signaling()[t.members.mesh_id].connected is False
        t.anna.mesh.drop(B.peer_id, "test")
        await t.anna.until_linked(t.bert)  # from addresses that everybody has
        await t.anna.until(lambda: t.anna.told[-1] == LinkUp(B.peer_id, "direct"))
        await trio.sleep(300)
        assert set(t.anna.mesh.linked()) == {B.peer_id, C.peer_id}
        t.village.node.rise()
        others = {d.id for d in t.all}
        await trio.sleep(100)
        for d in t.all:
            assert d.mesh.signaling()[t.members.mesh_id].present == others - {d.id}
        assert t.anna.mesh.signaling()[t.members.mesh_id].error is None


async def test_records_reach_everybody_and_late_ones_too(autojump_clock: MockClock) -> None:
    async with three() as t:
        await t.meet()
        t.village.node.die()
        t.anna.mesh.publish(t.members.mesh_id, make_offer(A, t.members.mesh_id, b"t" * 60_000, 5))
        tasks = [d.mesh.meshes[t.members.mesh_id].tasks for d in (t.bert, t.carl)]
        await t.bert.until(lambda: len(tasks[0]()) == 1)
        await t.carl.until(lambda: tasks[1]() == t.members.tasks())


async def test_taken_port_is_replaced_with_a_warning(autojump_clock: MockClock) -> None:
    fixed = {"listen": "127.0.0.1:7340"}
    async with three(anna=fixed, bert=fixed) as t:
        await t.meet()
        assert t.anna.mesh.port == 7340
        assert t.bert.mesh.port != 7340
        warnings = [e for e in t.bert.told if isinstance(e, Warned)]
        assert ["7340 is in use" in w.text for w in warnings] == [True]


@pytest.mark.parametrize(
    ("record", "which", "error", "text"),
    [
        (invite(expires=0), link(), BadInvite, "expired"),
        (invite(uses=1), link(mesh=b"x" * 32), BadInvite, "another mesh"),
        (invite(uses=1), link(node=b"x" * 32), BadInvite, "its key is not the one"),
    ],
    ids=["expired", "other mesh", "other node key"],
)
async def test_bad_invite_is_named(
    autojump_clock: MockClock, record: bytes, which: Any, error: type[Exception], text: str
) -> None:
    village, members = Village(), founded(A)
    anna, bert = Daemon(village, A, "anna"), Daemon(village, B, "bert")
    async with trio.open_nursery() as nursery:
        anna.mesh.add_mesh(members, [AT])
        anna.mesh.publish(members.mesh_id, record)
        await anna.start(nursery)
        await bert.start(nursery)
        await trio.sleep(5)
        with pytest.raises(error, match=text):
            await bert.mesh.join(which, "bert")
        nursery.cancel_scope.cancel()


async def test_used_up_and_revoked_invites_are_named(autojump_clock: MockClock) -> None:
    async with three() as t:
        await t.meet()
        late = Daemon(t.village, identity(8), "late")
        async with trio.open_nursery() as nursery:
            await late.start(nursery)
            with pytest.raises(BadInvite, match="used up"):
                await late.mesh.join(link(), "late")
            key = Identity.from_seed(SEED).public
            t.anna.mesh.publish(t.members.mesh_id, make_revocation(ROOT, "invite", key, 60))
            await trio.sleep(1)
            with pytest.raises(BadInvite, match="revoked"):
                await late.mesh.join(link(), "late")
            nursery.cancel_scope.cancel()


async def test_joining_without_a_member_or_a_node_ends_in_time_and_says_what_was_missing(
    autojump_clock: MockClock,
) -> None:
    village = Village()
    bert = Daemon(village, B, "bert")
    async with trio.open_nursery() as nursery:
        await bert.start(nursery)
        with pytest.raises(TimedOut, match="does not know this invite"):
            await bert.mesh.join(link(), "bert", wait_seconds=30)
        village.node.die()
        with pytest.raises(SignalingUnreachable, match="connection refused"):
            await bert.mesh.join(link(), "bert", wait_seconds=30)
        nursery.cancel_scope.cancel()
