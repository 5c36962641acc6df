from __future__ import annotations

import os
from hashlib import sha256

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from discod.errors import Broken
from discod.p2p.link import MAX_REFUSED, greet
from discod.p2p.outbox import MAX_QUEUED_BYTES, Outbox, Transfer
from discod.p2p.transport import TlsStream
from discod.wire.codec import encode
from discod.wire.links import (
    BULK,
    CONTROL,
    DATA,
    BulkHeader,
    Bye,
    Moved,
    Post,
    Refusal,
    Welcome,
)
from discod.wire.rounds import Signed
from tests.p2p.pairs import WELCOME, Running, greeted, identity, running, trusting

A, B, C = identity(1), identity(2), identity(3)
RID, OTHER = b"r" * 32, b"o" * 32


def header(size: int, rid: bytes = RID) -> BulkHeader:
    return BulkHeader(b"s" * 32, rid, "piece", 0, size)


def post(n: int) -> Post:
    return Post(b"", Signed(n.to_bytes(4, "little"), bytes(64)))


async def test_both_sides_learn_who_and_what_the_other_is() -> None:
    a, b = await greeted(A, B)
    assert (a.peer, b.peer) == (B.peer_id, A.peer_id)
    assert a.welcome == WELCOME
    await a.close("done")
    await b.close("done")


async def test_dialler_notices_another_peer_at_the_address() -> None:
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def listen() -> None:
            with pytest.raises(Broken):
                await greet(theirs, trusting(C, A), WELCOME, "direct", dialling=False)

        nursery.start_soon(listen)
        with pytest.raises(Broken, match="another peer answered"):
            await greet(ours, trusting(A, B, C), WELCOME, "direct", dialling=True, want=B.peer_id)


async def test_refused_dialler_sees_no_link_although_its_handshake_succeeded() -> None:
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def listen() -> None:
            with pytest.raises(Broken, match="not a member's"):
                await greet(theirs, trusting(B, A), WELCOME, "direct", dialling=False)

        nursery.start_soon(listen)
        with pytest.raises(Broken, match="does not take us for a member"):
            await greet(ours, trusting(C, B), WELCOME, "direct", dialling=True)


async def test_silent_listener_is_given_up(autojump_clock: MockClock) -> None:
    ours, theirs = memory_stream_pair()
    with pytest.raises(Broken, match="did not greet us in time"):
        await greet(ours, trusting(A, B), WELCOME, "direct", dialling=True)
    await theirs.aclose()


async def test_other_protocol_version_is_named() -> None:
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def listen() -> None:
            link = await greet(theirs, trusting(B, A), Welcome(7, "x", "y"), "direct", dialling=False)
            await link.close("")

        nursery.start_soon(listen)
        with pytest.raises(Broken, match="protocol version 7"):
            await greet(ours, trusting(A, B), WELCOME, "direct", dialling=True)


async def test_messages_arrive_in_order_both_ways(autojump_clock: MockClock) -> None:
    async with running(A, B) as both:
        for n in range(300):
            both.outbox_a.put(encode(post(n)))
            both.outbox_b.put(encode(post(-n & 0xFFFF)))
        await both.at_b.until(300)
        await both.at_a.until(300)
        assert both.at_b.messages == [post(n) for n in range(300)]
        await trio.sleep(6)
        assert both.a.rtt_seconds == 0


async def test_bulk_lands_in_its_buffer_with_its_hash_while_control_passes(autojump_clock: MockClock) -> None:
    data = os.urandom(5 * (256 << 10) + 17)
    told: list[bool] = []
    async with running(A, B) as both:
        both.at_b.buffers[RID] = bytearray(len(data))
        both.outbox_a.put_bulk(Transfer(header(len(data)), memoryview(data), told.append))
        await wait_all_tasks_blocked()
        both.outbox_a.put(encode(post(1)))
        await both.at_b.until(2)
        assert both.at_b.buffers[RID] == data
        assert both.at_b.digests[RID] == sha256(data).digest()
        assert told == [True]
        assert both.a.frames.sent[DATA] == both.b.frames.received[DATA] == len(data) + 6 * 5


async def test_control_overtakes_bulk_that_waits(autojump_clock: MockClock) -> None:
    data = bytes(1 << 20)
    async with running(A, B) as both:
        both.at_b.buffers[RID] = bytearray(len(data))
        both.outbox_a.put_bulk(Transfer(header(len(data)), memoryview(data), None))
        both.outbox_a.put(encode(post(1)))
        await both.at_b.until(2)
        assert both.at_b.log == ["Post", "bulk"]


async def test_unexpected_transfer_is_refused_and_drained_and_the_link_stays(autojump_clock: MockClock) -> None:
    data = os.urandom(700_000)
    async with running(A, B) as both:
        both.at_b.buffers[RID] = bytearray(len(data))
        both.outbox_a.put_bulk(Transfer(header(len(data), OTHER), memoryview(data), None))
        both.outbox_a.put_bulk(Transfer(header(len(data)), memoryview(data), None))
        await both.at_b.until(1)
        await both.at_a.until(1)
        assert both.at_a.messages == [Refusal(OTHER, "piece", "this transfer is not expected")]
        assert both.b.refused == 1
        assert both.at_b.digests == {RID: sha256(data).digest()}


async def test_goodbye_overtakes_bulk_and_ends_both_sides_with_its_reason(autojump_clock: MockClock) -> None:
    both = Running(*await greeted(A, B))
    data = bytes(1 << 20)
    both.outbox_a.put_bulk(Transfer(header(len(data)), memoryview(data), None))
    both.outbox_a.put_last(encode(Bye("shutting down")))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(both.run_a)
        nursery.start_soon(both.run_b)
    assert both.why == {"a": "we said goodbye", "b": "it said goodbye: shutting down"}
    assert both.at_b.log == []


async def test_silence_ends_a_link(autojump_clock: MockClock) -> None:
    a, b = await greeted(A, B)
    both = Running(a, b)
    started = trio.current_time()
    await both.run_a()  # b never runs
    assert "nothing heard for 20 s" in both.why["a"]
    assert 20 <= trio.current_time() - started <= 25
    await b.close("")


async def test_doubt_shortens_the_wait_and_an_answer_ends_it(autojump_clock: MockClock) -> None:
    a, b = await greeted(A, B)
    both = Running(a, b)
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(both.run_a)
        await wait_all_tasks_blocked()
        a.suspect()
    assert trio.current_time() - started < 10
    await b.close("")
    async with running(A, B) as alive:
        await trio.sleep(1)
        alive.a.suspect()
        await trio.sleep(60)
        assert not alive.why


async def test_move_finishes_the_transfer_and_nothing_follows_it(autojump_clock: MockClock) -> None:
    data = os.urandom(900_000)
    both = Running(*await greeted(A, B))
    both.at_b.buffers[RID] = bytearray(len(data))
    both.outbox_a.put_bulk(Transfer(header(len(data)), memoryview(data), None))
    both.outbox_a.put_bulk(Transfer(header(len(data), OTHER), memoryview(data), None))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(both.run_a)
        nursery.start_soon(both.run_b)
        while not both.outbox_a.under_way:
            await trio.lowlevel.checkpoint()
        both.a.move()
        both.b.move()
    assert both.at_b.digests == {RID: sha256(data).digest()}
    assert [transfer.header.rid for transfer in both.outbox_a.bulk] == [OTHER]
    assert all((both.a.moved_in, both.a.moved_out, both.b.moved_in, both.b.moved_out))
    assert both.why == dict.fromkeys("ab", "replaced by a better path")


BAD: dict[str, tuple[list[tuple[int, bytes]], str]] = {
    "not a message": ([(CONTROL, b"\xc1")], "not a message"),
    "greeted twice": ([(CONTROL, encode(WELCOME))], "greeted twice"),
    "data for nothing": ([(DATA, b"x")], "belongs to no transfer"),
    "empty data": ([(BULK, encode(header(5))), (DATA, b"")], "more data than"),
    "too much data": ([(BULK, encode(header(5))), (DATA, b"123456")], "more data than"),
    "nested": ([(BULK, encode(header(5))), (BULK, encode(header(5)))], "inside another"),
    "too big": ([(BULK, encode(header(1 << 40)))], "a transfer of"),
    "negative": ([(BULK, encode(header(-1)))], "a transfer of"),
    "moved inside": ([(BULK, encode(header(5))), (CONTROL, encode(Moved()))], "in the middle"),
}


@pytest.mark.parametrize(("frames", "why"), BAD.values(), ids=BAD.keys())
async def test_broken_rules_end_the_link(autojump_clock: MockClock, frames: list[tuple[int, bytes]], why: str) -> None:
    both = Running(*await greeted(A, B))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(both.run_b)
        for kind, body in frames:
            await both.a.frames.send(kind, body)
    assert why in both.why["b"]
    await both.a.close("")


async def test_message_in_another_spelling_is_refused_and_the_link_stays(autojump_clock: MockClock) -> None:
    both = Running(*await greeted(A, B))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(both.run_a)
        nursery.start_soon(both.run_b)
        both.outbox_a.put(b"\x92\xa4ping\xcd\x00\x01")  # 1 in three bytes instead of one
        await both.at_a.until(1)
        both.outbox_a.put(encode(post(1)))
        await both.at_b.until(1)
        nursery.cancel_scope.cancel()
    assert both.at_a.messages == [Refusal(b"", "message", "message not in canonical form")]
    assert both.b.refused == 1


async def test_endless_refused_messages_end_the_link(autojump_clock: MockClock) -> None:
    both = Running(*await greeted(A, B))
    for _ in range(MAX_REFUSED + 1):
        both.outbox_a.put(b"\x92\xa4ping\xcd\x00\x01")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(both.run_a)
        nursery.start_soon(both.run_b)
    assert "refused messages" in both.why["b"]


async def test_peer_that_does_not_read_is_dropped(autojump_clock: MockClock) -> None:
    """A stream that takes nothing: the writer gives up after its deadline instead of waiting for ever."""
    a, b = await greeted(A, B)
    outbox = Outbox()

    class Stuck(TlsStream):
        pass

    async def never(data: object) -> None:
        await trio.sleep_forever()

    a.frames.stream.transport.send_all = never  # type: ignore[method-assign]
    outbox.put(encode(post(1)))
    why = await a.run(outbox, Running(a, b).at_a)
    assert "does not read" in why or "nothing heard" in why
    await b.close("")


def test_full_queue_says_so() -> None:
    outbox = Outbox()
    body = bytes(1 << 20)
    assert sum(outbox.put(body) for _ in range(20)) == MAX_QUEUED_BYTES >> 20
    outbox.take_control()
    assert outbox.put(body)


def test_lost_link_gives_lent_data_back() -> None:
    told: list[bool] = []
    outbox = Outbox()
    outbox.put_bulk(Transfer(header(3), memoryview(b"abc"), told.append))
    outbox.clear()
    assert told == [False]
    assert outbox.empty
