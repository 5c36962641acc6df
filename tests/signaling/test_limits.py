"""What an address, a connection and a peer may ask: each limit refuses by name, and leaves everybody else alone."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
from trio.abc import Stream
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from discod.errors import UsageError
from discod.identity import Identity
from discod.wire.codec import PROTOCOL_VERSION, decode, encode
from discod.wire.signaling import (
    Beat,
    Denied,
    FromNode,
    Hello,
    Join,
    Knock,
    Left,
    Present,
    Publish,
    Redeem,
    Relay,
    Room,
    Signal,
    Spliced,
    Ticket,
    ToNode,
    from_node,
)
from signaling.limits import (
    ADDRESS_SLACK_SECONDS,
    BEHIND_SECONDS,
    CONNECTION_SLACK_SECONDS,
    DEFAULTS,
    Gate,
    Limits,
    PerMinute,
    PerSecond,
    set_limits,
    source,
)
from signaling.lobby import Close, Effect, Lobby, Tell
from signaling.server import Server
from tests.signaling.test_lobby import HOST, MESH, NODE, A, B, both, join, knocked, lobby, tickets


def test_limits_are_set_by_name_and_what_is_no_limit_is_said() -> None:
    assert set_limits(DEFAULTS, []) == DEFAULTS
    limits = set_limits(DEFAULTS, ["joins-per-minute=7", "queued_bytes=1_000"])
    assert (limits.joins_per_minute, limits.queued_bytes) == (7, 1000)
    assert limits.connections == DEFAULTS.connections
    with pytest.raises(UsageError, match="sets no limit") as raised:
        set_limits(DEFAULTS, ["joins=7"])
    assert "joins-per-minute" in raised.value.hint
    for bad in ("joins-per-minute=0", "joins-per-minute=many", "joins-per-minute=-3", "joins-per-minute="):
        with pytest.raises(UsageError, match="no whole number from 1 on"):
            set_limits(DEFAULTS, [bad])


def test_an_ipv6_customer_is_one_address() -> None:
    assert source("2001:db8:1:2:3::4") == source("2001:db8:1:2:ffff::1") != source("2001:db8:1:3::1")
    assert source("::ffff:192.0.2.7") == source("192.0.2.7") == "192.0.2.7"
    assert source("fe80::1%eth0") == source("fe80::2")
    assert source("client.memory") == "client.memory"


def test_what_comes_faster_than_the_rate_waits_and_who_keeps_on_is_refused() -> None:
    rate = PerSecond(5, slack_seconds=1.0)
    waits = [rate.wait("a", 1, 0.0) for _ in range(9)]
    assert waits == pytest.approx([0.0] * 6 + [0.2, 0.4, 0.6])
    assert rate.wait("b", 1, 0.0) == 0.0
    assert rate.wait("a", 1000, BEHIND_SECONDS) == 0.0  # it was slow enough in between
    assert rate.wait("a", 1, BEHIND_SECONDS + 1) == pytest.approx(198)  # behind from now on
    assert rate.wait("a", 1, 2 * BEHIND_SECONDS + 1) is not None
    assert rate.wait("a", 1, 2 * BEHIND_SECONDS + 1.1) is None
    rate.forget_old(1000)
    assert rate.wait("a", 1, 1000) == 0.0


def test_a_window_of_a_minute() -> None:
    minute = PerMinute(10)
    assert minute.take("a", 9, 5.0)
    assert not minute.take("a", 2, 64.9)
    assert minute.left("a", 64.9) == 1
    assert minute.take("a", 10, 65.0)


def test_who_opens_too_many_or_too_often_is_turned_away_and_others_are_not() -> None:
    gate = Gate(Limits(opening_per_address=2, opened_per_minute=5, connections=6))
    assert [gate.enter("a", 0) for _ in range(3)] == [True, True, False]
    gate.opened("a")
    assert [gate.enter("a", 1) for _ in range(2)] == [True, False]
    assert gate.enter("b", 1)
    for _ in range(2):
        gate.opened("a")
    assert [gate.enter("a", 2) for _ in range(2)] == [True, True]
    for _ in range(2):
        gate.opened("a")
    assert gate.here == 6
    assert not gate.enter("c", 3)  # the node is full
    gate.leave()
    assert gate.enter("c", 3)
    gate.leave()
    assert not gate.enter("a", 59)  # five times in this minute
    assert gate.enter("a", 60)
    assert gate.turned_away == 4


def denied(effects: list[Effect]) -> str:
    found = [e.denied if isinstance(e, Close) else e.message for e in effects if isinstance(e, Close | Tell)]
    assert len(found) == 1
    assert isinstance(found[0], Denied)
    return found[0].code


def test_a_limit_that_changes_holds_from_the_next_message_on() -> None:
    room = both()
    room.set_limits(Limits(connections_per_address=2, joins_per_minute=2, relays_per_peer=1))
    assert denied(room.connect(3, "10.0.0.1", 0)) == "too-many-connections"
    assert room.counts()["connections"] == 2
    assert room.connect(4, "10.0.0.2", 0) == []
    assert denied(room.receive(1, join(A, b"x" * 16), 0)) == "too-many-joins"


def test_joins_are_counted_before_their_signatures_cost_anything() -> None:
    room = lobby(settable=Limits(joins_per_minute=1))
    nonce = knocked(room, 1)
    room.receive(1, join(A, nonce), 0)
    forged = Join(MESH.mesh_id, A.public, 7, (b"not a record",), bytes(64))
    assert denied(room.receive(1, forged, 1)) == "too-many-joins"


def test_messages_count_by_connection_and_by_address() -> None:
    room = lobby(settable=Limits(messages_per_second=2, address_messages_per_second=3))
    for guest, address in ((1, "10.0.0.1"), (2, "10.0.0.1"), (3, "10.0.0.2")):
        room.connect(guest, address, 0)
    # its own four messages before: 2 seconds, of which one is slack; those of its address: 4/3, of which 0.1 is
    assert [room.heed(1, Beat(1), 0) for _ in range(5)][-1] == pytest.approx(4 / 3 - ADDRESS_SLACK_SECONDS)
    # another one there waits for what its address has said, one elsewhere does not
    assert room.heed(2, Beat(1), 0) == pytest.approx(5 / 3 - ADDRESS_SLACK_SECONDS)
    assert room.heed(3, Beat(1), 0) == 0


def test_records_to_be_checked_count_as_messages() -> None:
    room = lobby(settable=Limits(messages_per_second=10))
    room.connect(1, "10.0.0.1", 0)
    assert room.heed(1, Publish((b"x",) * 60), 0) == 0
    assert room.heed(1, Beat(1), 0) == pytest.approx(61 / 10 - CONNECTION_SLACK_SECONDS)
    assert room.heed(1, join(A, b"n" * 16, (b"x",) * 20), 0) == pytest.approx(62 / 10 - CONNECTION_SLACK_SECONDS)
    assert room.heed(1, Beat(1), 0) == pytest.approx(83 / 10 - CONNECTION_SLACK_SECONDS)


async def test_who_floods_is_slowed_down_and_then_refused_by_name(autojump_clock: MockClock) -> None:
    async with house(Limits(messages_per_second=10)) as node:
        flooder = await node.guest(A, "10.0.0.1", lockstep_stream_pair)
        calm = await node.guest(B, "10.0.0.2", memory_stream_pair)
        assert isinstance(await flooder.hear(), Present)
        assert isinstance(await calm.hear(), Present)
        node.nursery.start_soon(_flood, flooder)
        started, heard = trio.current_time(), 0
        while isinstance(message := await flooder.hear(), Beat):
            heard += 1
            if heard == 200:
                asked = trio.current_time()
                await calm.say(Beat(9))
                assert await calm.hear() == Beat(9)
                assert trio.current_time() == asked
        assert isinstance(message, Denied)
        assert message.code == "too-many-messages"
        assert heard / (trio.current_time() - started) < 11


async def _flood(guest: Guest) -> None:
    with suppress(ConnectionClosed):
        while True:
            await guest.say(Beat(1))


def test_a_peer_holds_so_many_relays_and_gets_another_when_one_ends() -> None:
    room = both(settable=Limits(relays_per_peer=2))
    for guest, token in zip((11, 12), tickets(room), strict=True):
        room.connect(guest, "10.0.0.1", 0)
        room.receive(guest, Redeem(token), 0)
    tickets(room)
    assert denied(room.receive(1, Relay(B.peer_id), 0)) == "too-many-relays"
    room.tick(10.5)  # the second pair of tickets was not redeemed
    tickets(room, 11)
    assert denied(room.receive(1, Relay(B.peer_id), 11)) == "too-many-relays"
    room.lost(11)
    room.lost(12)
    tickets(room, 12)


# -- the shell

Pair = Callable[[], tuple[Stream, Stream]]


class House:
    """A node whose connections are streams in memory."""

    def __init__(self, settable: Limits, nursery: trio.Nursery) -> None:
        self.lobby = Lobby(NODE, lambda: secrets.token_bytes(16), settable=settable)
        self.server = Server(self.lobby, clock=trio.current_time)
        self.nursery = nursery

    def dial(self, address: str, pair: Pair = memory_stream_pair) -> Stream:
        """A connection from this address."""
        ours, theirs = pair()
        self.nursery.start_soon(self.server.serve, theirs, address)
        return ours

    async def call(self, address: str, pair: Pair = memory_stream_pair) -> Guest:
        """A WebSocket from this address."""
        stream: Any = self.dial(address, pair)  # the annotation there is narrower than what it needs
        return Guest(await wrap_client_stream(self.nursery, stream, HOST, "/v1"))

    async def guest(self, who: Identity, address: str, pair: Pair) -> Guest:
        """A peer that has joined."""
        guest = await self.call(address, pair)
        await guest.say(Knock(PROTOCOL_VERSION, b"n" * 16, HOST))
        hello = await guest.hear()
        assert isinstance(hello, Hello)
        await guest.say(join(who, hello.nonce))
        assert isinstance(await guest.hear(), Room)
        return guest


class Guest:
    """A WebSocket to the node."""

    def __init__(self, socket: WebSocketConnection) -> None:
        self.socket = socket

    async def say(self, message: ToNode) -> None:
        await self.socket.send_message(encode(message))

    async def hear(self) -> FromNode:
        data = await self.socket.get_message()
        assert isinstance(data, bytes)
        message: FromNode = decode(from_node, data)
        return message


@asynccontextmanager
async def house(settable: Limits = DEFAULTS) -> AsyncIterator[House]:
    async with trio.open_nursery() as nursery:
        node = House(settable, nursery)
        nursery.start_soon(node.server.watch)
        yield node
        nursery.cancel_scope.cancel()


UPGRADE = b"GET /v1 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"


@pytest.mark.parametrize("said", [b"", b"GET /v1 HT", UPGRADE], ids=["nothing", "half a line", "half a head"])
async def test_a_handshake_that_is_never_finished_is_hung_up_on(autojump_clock: MockClock, said: bytes) -> None:
    async with house(Limits(opening_seconds=7)) as node:
        stream = node.dial("10.0.0.1")
        await stream.send_all(said)
        with trio.fail_after(7.5):
            assert await stream.receive_some() == b""
        assert trio.current_time() >= 7
        assert node.server.open_connections == 0


async def test_drops_of_a_head_do_not_buy_time(autojump_clock: MockClock) -> None:
    async with house(Limits(opening_seconds=7)) as node:
        stream = node.dial("10.0.0.1")
        started = trio.current_time()
        while node.server.open_connections or trio.current_time() == started:
            await stream.send_all(b"x")
            await trio.sleep(0.4)
        assert 7 <= trio.current_time() - started < 8


async def test_half_open_connections_are_so_many_from_one_address(autojump_clock: MockClock) -> None:
    async with house(Limits(opening_per_address=3)) as node:
        held = [node.dial("10.0.0.1") for _ in range(3)]
        await wait_all_tasks_blocked()
        fourth, another = node.dial("10.0.0.1"), node.dial("10.0.0.2")
        assert await fourth.receive_some() == b""
        await another.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await another.receive_some()).startswith(b"HTTP/1.1 200 OK")
        for stream in held:
            await stream.aclose()


async def test_who_does_not_read_is_dropped_and_the_others_are_told(autojump_clock: MockClock) -> None:
    async with house(Limits(queued_bytes=300_000)) as node:
        sleeper = await node.guest(A, "10.0.0.1", lockstep_stream_pair)
        awake = await node.guest(B, "10.0.0.2", memory_stream_pair)
        assert isinstance(await awake.hear(), Present)
        for _ in range(8):
            await awake.say(Signal(A.peer_id, bytes(50_000)))
        assert await awake.hear() == Left(A.peer_id)
        await awake.say(Beat(3))
        assert await awake.hear() == Beat(3)
        del sleeper


async def test_an_oversized_message_is_refused_by_name_before_it_is_kept(autojump_clock: MockClock) -> None:
    async with house() as node:
        guest = await node.guest(A, "10.0.0.1", memory_stream_pair)
        await guest.socket.send_message(bytes((64 << 10) + 1))
        with pytest.raises(ConnectionClosed) as raised:
            await guest.hear()
        assert raised.value.reason is not None
        assert (raised.value.reason.code, raised.value.reason.reason) == (
            1009,
            "Exceeded maximum message size: 65536 bytes",
        )


async def spliced(node: House) -> tuple[Guest, Guest]:
    """Two ends of a relay from A to B, who are not asked to do anything else."""
    a = await node.guest(A, "10.0.0.1", memory_stream_pair)
    b = await node.guest(B, "10.0.0.2", memory_stream_pair)
    assert isinstance(await a.hear(), Present)
    assert isinstance(await b.hear(), Present)
    await a.say(Relay(B.peer_id))
    ends = []
    for guest, address in ((a, "10.0.0.1"), (b, "10.0.0.2")):
        ticket = await guest.hear()
        assert isinstance(ticket, Ticket)
        ends.append(await node.call(address))
        await ends[-1].say(Redeem(ticket.token))
    for end in ends:
        assert await end.hear() == Spliced()
    return ends[0], ends[1]


async def test_relayed_bytes_are_slowed_down_to_the_rate_and_all_arrive(autojump_clock: MockClock) -> None:
    async with house(Limits(relay_bytes_per_second=100_000)) as node:
        near, far = await spliced(node)
        started = trio.current_time()
        node.nursery.start_soon(_send, near, 50, bytes(10_000))
        arrived = [len(await far.socket.get_message()) for _ in range(50)]
        assert arrived == [10_000] * 50
        assert 4.5 < trio.current_time() - started < 5.5


async def test_a_peer_over_its_minute_is_told_so_at_both_ends(autojump_clock: MockClock) -> None:
    async with house(Limits(relay_bytes_per_minute=1_000_000)) as node:
        near, far = await spliced(node)
        node.nursery.start_soon(_send, near, 25, bytes(50_000))
        for end in (far, near):
            assert "1 MB a minute for each peer" in await _end_of(end)


async def _end_of(guest: Guest) -> str:
    with suppress(ConnectionClosed):
        while True:
            await guest.socket.get_message()
    return str(guest.socket.closed.reason) if guest.socket.closed else "open"


async def _send(guest: Guest, count: int, data: bytes) -> None:
    with suppress(ConnectionClosed):
        for _ in range(count):
            await guest.socket.send_message(data)
