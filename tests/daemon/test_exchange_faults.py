"""The real exchange when something goes wrong: a lying holder, a damaged file, a full disk, a cancelled trainer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from discod import ring
from discod.daemon.exchange import DecentralizedExchange
from discod.daemon.kept import Shelf
from discod.daemon.resuming import where_to_start
from discod.errors import BadData, UserError, first_error
from discod.p2p.effects import Send
from discod.store import SpentRow, open_store
from discod.train.rounds import JointState
from discod.train.vector import Vector
from discod.wire.codec import decode, decoder
from discod.wire.rounds import Certificate, Done, Links, Manifest, parse_body, parse_envelope
from tests.daemon.circle import Circle, D, Peer, circle, in_place, task_of, until

FIRST = np.linspace(-1, 1, D, dtype=np.float32)
FULL = UserError("no space left on the disk", "make room", code="disk-full")


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio.to_thread, "run_sync", in_place)


async def one_round(c: Circle, peers: list[Peer], step: float = 0.25) -> JointState:
    """One that is certified."""
    await c.begin(*peers)
    states = await c.share([(peer, step, 100) for peer in peers])
    assert states[0] is not None
    return states[0]


@pytest.mark.usefixtures("no_threads")
async def test_a_wrong_snapshot_is_refused_and_fetched_from_another_peer(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with circle(tmp_path, 3, task_of(2), FIRST, opened=False) as c:
        anna, bert, carl = c.peers
        await c.open(anna, bert)
        state = await one_round(c, [anna, bert])
        senders: list[Peer] = []

        def lies(peer: Peer, send: Callable[..., bool]) -> Callable[..., bool]:
            def bulk(to: bytes, kind: str, rid: bytes, chunk: int, data: Vector) -> bool:
                senders.append(peer)
                if peer is senders[0]:  # whoever was asked first never sends the state
                    data = data.copy()
                    data[-1] += 1
                return send(to, kind, rid, chunk, data)

            return bulk

        for peer in (anna, bert):
            sending: Any = peer.exchange._sending
            sending.bulk = lies(peer, sending.bulk)
        await c.open(carl)
        await until(lambda: carl.exchange.round == 1)
        *liars, honest = senders
        assert liars == [senders[0]] * len(liars)
        assert honest is not senders[0]
        assert carl.exchange.parameters.tobytes() == state.parameters.tobytes()
        assert not np.array_equal(FIRST, state.parameters)
        assert ended_links(carl) == ["a snapshot that is not the state it was asked for"] * len(liars)
        await until(lambda: senders[0].id in carl.mesh.linked_peers())  # it may come back


def ended_links(peer: Peer) -> list[str]:
    """Why, in their order."""
    return [event["why"] for event in peer.log.since(0) if event["type"] == "peer.disconnected"]


@pytest.mark.parametrize("damage", ["bit", "cut", "gone"])
@pytest.mark.usefixtures("no_threads")
async def test_a_damaged_state_is_a_sentence_at_the_start(
    autojump_clock: MockClock, tmp_path: Path, damage: str
) -> None:
    async with circle(tmp_path, 2, task_of(2), FIRST) as c:
        anna = c.peers[0]
        await one_round(c, c.peers)
        await anna.stop()
        (path,) = (anna.directory / "states").rglob("*.safetensors")
        whole = path.read_bytes()
        if damage == "bit":
            path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        elif damage == "cut":
            path.write_bytes(whole[:-1])
        else:
            path.unlink()
        with pytest.raises(BadData) as caught:
            await anna.serve(task_status=trio.TASK_STATUS_IGNORED)
        assert caught.value.code == "damaged"
        assert caught.value.hint
        assert ("round 1" if damage != "cut" else path.name) in caught.value.message
        path.write_bytes(whole)
        await c.open(anna)
        assert anna.exchange.round == 1


@pytest.mark.usefixtures("no_threads")
async def test_a_full_disk_at_the_certificate_ends_the_run_and_keeps_the_old_base(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caught: list[BaseException] = []

    async def serve(peer: Peer, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            await peer.serve(task_status=task_status)
        except* UserError as group:  # as a run does
            caught.append(first_error(group))

    def full(*_: object) -> None:
        raise FULL

    async with circle(tmp_path, 3, task_of(3), FIRST, opened=False) as c, trio.open_nursery() as nursery:
        anna, bert, carl = c.peers
        await c.open(anna, bert)
        await nursery.start(serve, carl)
        one = await one_round(c, c.peers)
        for peer in c.peers:
            await peer.begin()
        with monkeypatch.context() as patch:
            patch.setattr(carl.store, "certify", full)
            nursery.start_soon(carl.share, 0.5)
            two, _ = await c.share([(anna, 0.5, 100), (bert, 0.5, 100)])
            await until(lambda: bool(caught))
        assert caught == [FULL]
        nursery.cancel_scope.cancel()
        assert (two is not None and two.round, anna.exchange.round) == (2, 2)
        kept = carl.store.load_base(carl.task.id)
        assert kept is not None
        assert (kept.header.round, kept.vectors["parameters"].tobytes()) == (1, one.parameters.tobytes())
        await c.open(carl)  # once there is room: the others hold the round that it signed
        assert carl.exchange.round == 1
        await until(lambda: carl.exchange.round == 2)
        assert carl.exchange.parameters.tobytes() == anna.exchange.parameters.tobytes()


@pytest.mark.usefixtures("no_threads")
async def test_nothing_is_said_before_it_is_on_disk(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The spent record before the Manifest, the state before the Done, the certificate before Links name the state."""
    log: list[str] = []

    def noted(owner: Any, name: str) -> None:
        inner = getattr(owner, name)

        def call(*args: Any) -> Any:
            result = inner(*args)
            log.append(name)
            return result

        monkeypatch.setattr(owner, name, call)

    async with circle(tmp_path, 3, task_of(3), FIRST) as c:
        anna = c.peers[0]
        await c.begin()
        for name in ("spend", "save_candidate", "certify"):
            noted(anna.store, name)
        sending: Any = anna.exchange._sending
        send = sending.message

        def message(effect: Send) -> None:
            envelope = parse_envelope(effect.signed)
            body = parse_body(envelope)
            if isinstance(body, Manifest | Done) or (isinstance(body, Links) and body.round == 1):
                log.append(envelope.kind)
            send(effect)

        monkeypatch.setattr(sending, "message", message)
        await c.share([(peer, 0.25, 100) for peer in c.peers])
        await until(lambda: "links" in log)
    assert list(dict.fromkeys(log)) == ["spend", "manifest", "save_candidate", "done", "certify", "links"]


@pytest.mark.usefixtures("no_threads")
async def test_a_full_disk_at_the_spent_record_sends_no_manifest(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise FULL

    async with circle(tmp_path, 4, task_of(4), FIRST) as c:
        *three, dora = c.peers
        await c.begin()
        monkeypatch.setattr(dora.store, "spend", full)
        *states, none = await c.share([(peer, 0.25, 100) for peer in c.peers])
        assert none is None
        assert states[0] is not None
        assert set(states[0].contributors) == {peer.id for peer in three}
        assert {"peer": "dora", "why": FULL.message} in three[0].told("peer.left")


@pytest.mark.usefixtures("no_threads")
async def test_a_new_exchange_stands_on_the_certified_base(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with circle(tmp_path, 3, task_of(3), FIRST) as c:
        anna = c.peers[0]
        await one_round(c, c.peers)
        state = await one_round(c, c.peers, 0.125)
        before = anna.exchange
        await anna.stop()
        await c.open(anna)
        after: DecentralizedExchange = anna.exchange
        assert after is not before
        assert (after.round, after.base, after.certificate) == (2, before.base, before.certificate)
        assert after.parameters.tobytes() == state.parameters.tobytes() == after.set_out().tobytes()
        certificate = decode(decoder(Certificate), after.certificate)
        assert (certificate.round, certificate.state) == (2, after.base)
        assert after._machine.chain.last_roster == tuple(sorted(peer.id for peer in c.peers))
        assert after._machine.chain.base.bound == before._machine.chain.base.bound != 1.0
        assert (await one_round(c, c.peers)).round == 3  # and goes on from there
        with closing(open_store(anna.directory)) as second:
            head = Shelf(second, anna.task, anna.scope).load(FIRST).head
        assert head.parameters == ring.hash_floats(anna.exchange.parameters)


@pytest.mark.usefixtures("no_threads")
async def test_what_was_sent_before_a_restart_is_not_sent_again(autojump_clock: MockClock, tmp_path: Path) -> None:
    """A kill after the Manifest: the record under the base makes training start from the base, further on."""
    async with circle(tmp_path, 2, task_of(2), FIRST) as c:
        anna, bert = c.peers
        await c.begin()
        anna.exchange.batches = 4
        anna.parameters += np.float32(0.25)
        with trio.move_on_after(1.0):  # bert does not train: no sum
            await anna.exchange.round_end(anna.parameters, 100)
        base = anna.exchange.base
        (sent,) = anna.store.spent(anna.task.id)
        assert (sent.base, sent.batches) == (base, 4)
        anna.store.save_working(anna.task.id, {"parameters": anna.parameters}, base=base, batches=4)
        await anna.stop()
        await c.open(anna)
        assert anna.exchange._machine.spent.manifests == 1
        working = anna.store.load_working(anna.task.id)
        start = where_to_start(base, anna.exchange.set_out(), working, anna.store.spent(anna.task.id))
        assert (start.parameters.tobytes(), start.batches) == (FIRST.tobytes(), 4)
        unspent: list[SpentRow] = []
        assert where_to_start(base, FIRST, working, unspent).parameters.tobytes() == anna_local(working).tobytes()
        assert bert.store.spent(bert.task.id) == []


def anna_local(working: Any) -> Vector:
    local: Vector = working.vectors["parameters"]
    assert not np.array_equal(local, FIRST)
    return local


async def test_the_vector_is_not_read_once_round_end_has_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's memory is unmapped then. With threads: the encoding one is in the middle of it when cancelled."""
    reading, go_on, log = trio.Event(), threading.Event(), list[str]()

    def slowly(*args: Any) -> Any:
        trio.from_thread.run_sync(reading.set)
        assert go_on.wait(60)
        result = ring.encode_chunk(*args)
        log.append("read")
        return result

    monkeypatch.setattr("discod.daemon.workshop.encode_chunk", slowly)
    async with circle(tmp_path, 2, task_of(2), FIRST) as c:
        anna, bert = c.peers
        await c.begin()
        scope = trio.CancelScope()

        async def end_round() -> None:
            with scope:
                await anna.exchange.round_end(anna.parameters, 100)
            log.append("returned")

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(end_round)
                with trio.fail_after(60):
                    await reading.wait()
                scope.cancel()
                await wait_all_tasks_blocked()
                assert log == []
                go_on.set()
        finally:
            go_on.set()
        assert log == ["read", "read", "returned"]  # one chunk for each of two peers
        assert bert.exchange.round == 0
