"""The node's shell around the buffer: who may enter, what is on disk before it is said, what a lie costs."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

import signaling.depot as depot_module
from discod.errors import Broken
from discod.identity import Identity, make_revocation, parse_record
from discod.p2p.hosting import Turned
from discod.wire.federated import PIECE_BYTES, Offer
from signaling import limits
from signaling.states import FILE, States
from tests.signaling.hosted import ANNA, BERT, CARL, DORA, FLOATS, MEMBERS, ROOT, a_task, in_place, node

SIZE = 4 * FLOATS


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depot_module, "in_thread", in_place)
    monkeypatch.setattr(trio.to_thread, "run_sync", in_place)


async def test_two_updates_make_a_version_that_everybody_can_pull_and_check(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        anna, bert, carl = [await here.enter(who, a_task(capacity=2)) for who in (ANNA, BERT, CARL)]
        assert (await anna.push(1, 0, 3.0, weight=1)).code == ""
        assert await anna.pull(0) is None
        assert (await bert.push(1, 0, -1.0, weight=3)).version == 1
        assert [await each.pull(0) for each in (anna, bert, carl)] == [(1, 0.0)] * 3
        assert (await carl.push(1, 1, 2.0)).waiting == 1
        assert (await anna.push(2, 1, 4.0)).version == 2
        assert await bert.pull(1) == (2, 3.0)


async def test_refusals_have_names_and_cost_no_upload(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        anna, bert = [await here.enter(who, a_task(capacity=2)) for who in (ANNA, BERT)]
        await anna.push(1, 0)
        await bert.push(1, 0)
        up = anna.hosting.bytes_up
        for seq, base, since, code in (
            (2, 0, 0, "stale"),
            (2, 9, 0, "future"),
            (1, 1, 0, "replayed"),
            (2, 1, 1, "counted"),
        ):
            assert (await anna.push(seq, base, since=since)).code == code
        assert anna.hosting.bytes_up == up
        answer: Any = await anna.hosting.offer(Offer(2, 1, 0, SIZE + 4))
        assert answer.code == "wrong-size"
        assert here.depot.refused == dict.fromkeys(("stale", "future", "replayed", "counted", "wrong-size"), 1)
        assert here.depot.counts()["refused_pushes"] == 5


async def test_update_with_nan_is_refused_by_the_node(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        anna = await here.enter(ANNA, a_task())
        assert (await anna.push(1, 0, float("nan"))).code == "not-finite"
        assert here.depot.counts()["waiting_updates"] == 0
        assert (await anna.push(1, 0, 1.0)).code == ""


async def test_chain_of_admits_is_shown_when_the_own_records_do_not_say_why(tmp_path: Path) -> None:
    """carl was admitted by bert, whom this node has never seen."""
    async with node(tmp_path) as here:
        with pytest.raises(Turned, match="no member has admitted it"):
            await here.enter(CARL, a_task(), everything=False)
        await here.enter(CARL, a_task())


async def test_stranger_and_uninvited_task_and_other_node_are_turned_away(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        with pytest.raises(Turned) as turned:
            await here.enter(DORA, a_task())
        assert turned.value.code == "not-a-member"
        with pytest.raises(Turned):
            await here.enter(Identity.from_seed(b"x" * 32), a_task())
        with pytest.raises(Turned, match="may not"):
            await here.enter(BERT, a_task(), by=BERT)  # a trainer, not an admin
        with pytest.raises(Turned) as turned:
            await here.enter(ANNA, a_task(BERT))
        assert turned.value.code == "another-node"
        with pytest.raises(Turned, match="another node"):
            await here.enter(ANNA, msgspec.structs.replace(a_task(), scheme="decentralized"))


async def test_revoked_peer_is_out_at_its_next_push_and_after_a_restart(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        bert = await here.enter(BERT, a_task())
        assert (await bert.push(1, 0)).code == ""
        revocation = parse_record(make_revocation(ROOT, "peer", BERT.public, 9))
        here.published = {revocation.hash: revocation.data}
        with pytest.raises(Turned, match="no longer a member"):
            await bert.push(2, 0)
        here.published = {}
        here.open()
        with pytest.raises(Turned, match="revoked"):
            await here.enter(BERT, a_task())


async def test_push_signed_by_another_or_with_another_vector_ends_the_visit(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        for spoil in ("signature", "vector", "offer"):
            anna = await here.enter(ANNA, a_task())
            offer, vector = Offer(1, 0, 0, SIZE), bytes(SIZE)
            await anna.hosting.offer(offer)
            if spoil == "signature":
                anna.hosting._identity = BERT
            if spoil == "offer":
                offer = Offer(1, 0, 0, SIZE - 4)
            with pytest.raises((Turned, Broken)):
                await anna.hosting.push(offer, 1, vector, sha256(b"" if spoil == "vector" else vector).digest())
        assert here.depot.counts()["waiting_updates"] == 0


async def test_pieces_beyond_the_announced_size_are_not_taken_in(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        anna = await here.enter(ANNA, a_task())
        await anna.hosting.offer(Offer(1, 0, 0, SIZE))
        anna.line.send, send = _fatter(anna.line.send), anna.line.send  # type: ignore[method-assign]
        with pytest.raises((Turned, Broken)):
            await anna.hosting.push(Offer(1, 0, 0, SIZE), 1, bytes(SIZE), bytes(32))
        assert here.depot.arriving == 0
        assert send is not anna.line.send


def _fatter(send: Any) -> Any:
    async def fat(data: bytes) -> None:
        await send(data if b"push" in data[:8] else data + bytes(PIECE_BYTES))

    return fat


async def test_too_much_at_a_time_and_in_a_minute_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node(tmp_path) as here:
        anna = await here.enter(ANNA, a_task())
        monkeypatch.setattr(limits, "MAX_ARRIVING_BYTES", SIZE - 1)
        assert (await anna.push(1, 0)).code == "busy"
        monkeypatch.undo()
        monkeypatch.setattr(here.depot.moved, "limit", SIZE)
        monkeypatch.setattr(depot_module, "in_thread", in_place)
        assert (await anna.push(1, 0)).code == ""
        assert (await anna.push(2, 0)).code == "quota"
        monkeypatch.setattr(limits, "MAX_VECTOR_BYTES", SIZE - 1)
        with pytest.raises(Turned) as turned:
            await here.enter(BERT, a_task())
        assert turned.value.code == "too-large"


async def test_buffers_of_a_mesh_are_few_and_what_was_pushed_never_makes_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_BUFFERS", 2)
    async with node(tmp_path) as here:
        anna = await here.enter(ANNA, a_task())
        await anna.push(1, 0)
        await here.enter(ANNA, a_task(), origin=b"p" * 32)
        here.open()
        await here.enter(ANNA, a_task(), origin=b"q" * 32)  # in place of the empty one
        with pytest.raises(Turned) as turned:
            await here.enter(ANNA, a_task(), origin=b"r" * 32)
        assert turned.value.code == "no-room"
        assert (await here.enter(ANNA, a_task())).last == 1


async def test_waiting_pull_answers_with_the_version_or_after_a_while(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with node(tmp_path) as here:
        anna, bert = [await here.enter(who, a_task(mode="synchronous")) for who in (ANNA, BERT)]
        await anna.push(1, 0, 2.0)
        began = trio.current_time()
        assert await anna.pull(0, wait=True) is None
        assert trio.current_time() - began == 20
        found: list[Any] = []

        async def wait() -> None:
            found.append(await anna.pull(0, wait=True))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await bert.push(1, 0, 4.0)
        assert found == [(1, 3.0)]


async def test_leaver_and_deadline_make_the_version_that_others_wait_for(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with node(tmp_path) as here:
        task = a_task(mode="synchronous", deadline_seconds=30.0)
        anna, bert, carl = [await here.enter(who, task) for who in (ANNA, BERT, CARL)]
        await anna.push(1, 0, 2.0)
        assert (await bert.push(1, 0, 2.0)).version == 0
        await carl.line.aclose()
        assert await anna.pull(0, wait=True) == (1, 2.0)
        carl = await here.enter(CARL, task)
        await anna.push(2, 1, 2.0)
        await bert.push(2, 1, 2.0)
        here.nursery.start_soon(here.depot.watch)
        here.now += 31
        assert await bert.pull(1, wait=True) == (2, 4.0)
        assert (await carl.push(1, 1)).code == "stale"
        assert await carl.pull(0) == (2, 4.0)
        assert (await carl.push(1, 2)).code == ""


async def test_peer_that_comes_again_replaces_its_former_visit(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        task = a_task(mode="synchronous")
        former, bert = [await here.enter(who, task) for who in (ANNA, BERT)]
        anna = await here.enter(ANNA, task)
        await bert.push(1, 0)
        await former.line.aclose()
        await here.settled()
        assert here.depot.counts()["visitors"] == 2
        assert (await anna.push(1, 0)).version == 1


async def test_what_was_acknowledged_is_there_after_a_kill_and_is_published_once(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        anna, bert = [await here.enter(who, a_task(capacity=2)) for who in (ANNA, BERT)]
        await anna.push(1, 0, 3.0)
        here.open()  # nothing was closed: the file is as kill -9 leaves it
        anna, bert = [await here.enter(who, a_task(capacity=2)) for who in (ANNA, BERT)]
        assert (anna.last, bert.last, here.depot.counts()["waiting_updates"]) == (1, 0, 1)
        assert (await bert.push(1, 0, 1.0)).version == 1
        here.open()
        anna = await here.enter(ANNA, a_task(capacity=2))
        assert (anna.version, here.depot.counts()["waiting_updates"]) == (1, 0)
        assert await anna.pull(0) == (1, 2.0)
        assert (await anna.push(1, 0, 3.0)).code == "stale"  # the same again, as if the answer had been lost
        assert (await anna.push(2, 1, 3.0)).waiting == 1


async def test_full_disk_keeps_nothing_of_a_push_and_the_next_one_finds_the_buffer_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node(tmp_path) as here:
        anna, bert = [await here.enter(who, a_task(capacity=2)) for who in (ANNA, BERT)]
        await anna.push(1, 0, 3.0)
        whole = States._make

        def full(*_: Any) -> Any:
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(States, "_make", full)
        assert (await bert.push(1, 0, 1.0)).code == "no-room"
        assert (await bert.pull(0), here.depot.counts()["waiting_updates"]) == (None, 1)
        monkeypatch.setattr(States, "_make", whole)
        assert (await bert.push(1, 0, 1.0)).version == 1
        assert await bert.pull(0) == (1, 2.0)


KILLED = """
import os, signal, sys
from pathlib import Path
from signaling.buffer import Buffer, Contribution
from signaling.states import Arrived, Place, States
import signaling.states as module
from discod.wire.federated import FederatedSpec, HostedTask
where, kill = Path(sys.argv[1]), sys.argv[2]
states = States(where)
place = Place(b"m" * 32, b"s" * 32, b"o" * 32, 2)
number = states.open(place, 0.0, 4, ())
buffer = states.load(number, HostedTask("federated", federated=FederatedSpec(capacity=2)))
for n in (1, 2):
    effects = buffer.receive(Contribution(bytes([n]) * 32, 1, 0, 0, 1, bytes(32), 1.0), 1.0)
    if n == 2 and kill == "before":
        class Dying:
            def __getattr__(self, name): return getattr(connection, name)
            def execute(self, sql, *rest):
                if sql == "COMMIT": os.kill(os.getpid(), signal.SIGKILL)
                return connection.execute(sql, *rest)
        connection, states._connection = states._connection, Dying()
    states.commit(number, place, effects, Arrived(b"\\0\\0\\x80?" * 2, bytes(64)))
    print(n, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("kill", "acknowledged", "version", "slots"), [("before", 1, 0, 1), ("after", 2, 1, 0)])
def test_process_killed_around_a_commit_keeps_what_it_acknowledged(
    tmp_path: Path, kill: str, acknowledged: int, version: int, slots: int
) -> None:
    words = [sys.executable, "-c", KILLED, str(tmp_path), kill]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30, cwd=Path(__file__).parents[2])
    assert (done.returncode, len(done.stdout.split())) == (-signal.SIGKILL, acknowledged), done.stderr
    states = States(tmp_path)
    with sqlite3.connect(tmp_path / FILE) as file:
        assert file.execute("SELECT version FROM buffer").fetchall() == [(version,)]
        assert file.execute("SELECT count(*) FROM slot").fetchall() == [(slots,)]
    file.close()
    found = states.version(1)
    assert (found.number, found.weights) == (version, (1.0, 1.0)[: 2 * version])
    states.close()
    assert oct(os.stat(tmp_path / FILE).st_mode)[-3:] == "600"


def test_members_of_the_test_are_what_they_are_said_to_be() -> None:
    assert MEMBERS.trainers() == {ANNA.peer_id, BERT.peer_id, CARL.peer_id}
    assert DORA.peer_id not in MEMBERS.members()
