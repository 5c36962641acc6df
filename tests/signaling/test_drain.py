"""A node that goes down: whom it sends away, what it lets end, what it keeps."""

from __future__ import annotations

import json
import secrets
import signal
import sqlite3
import time
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest
import trio

from discod.errors import Broken
from discod.identity import Identity, make_offer
from discod.p2p.events import BulkArrived, SignalingUp
from discod.p2p.hosting import Hosting, Stay, Turned
from discod.p2p.rendezvous import own_records
from discod.p2p.websocket import Conversation, SignalingAt
from discod.train.task import encode_task
from discod.wire.codec import decode
from discod.wire.federated import Bring, Offer, hosted_scope
from discod.wire.signaling import Denied, Hello, from_node
from signaling.depot import Depot
from signaling.lobby import Lobby
from signaling.node import Node, open_listeners
from signaling.server import Server
from tests.signaling.hosted import ANNA, BERT, FLOATS, MEMBERS, a_task
from tests.signaling.relayed import couple
from tests.signaling.running import NODE, greet, guests, node, running, samples


async def test_sigterm_sends_everybody_away_by_name_and_takes_nobody_new(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running(tmp_path, "--plain") as process, guests() as ring:
            guest = await ring(process.at)
            assert isinstance(await greet(guest, process.at), Hello)
            process.send(signal.SIGTERM)
            denied = decode(from_node, await guest.receive())
            assert isinstance(denied, Denied)
            assert denied.code == "going-away"
            with pytest.raises(Broken):
                await guest.receive()
            await guest.aclose()
            assert await process.ended() == 0
            assert json.loads(process.log[-2])["cut"] == 0
            with pytest.raises(Broken, match="cannot connect"):
                await ring(process.at)


async def test_sigterm_lets_a_relayed_transfer_end(tmp_path: Path) -> None:
    slow = ("--limit", "relay-bytes-per-second=500_000")
    data = bytes(2_000_000)
    with trio.fail_after(60):
        async with running(tmp_path, "--plain", "--drain", "60", *slow) as process, couple(process.at) as two:
            two.send(data)
            process.send(signal.SIGTERM)
            await process.logged("drain.started")
            assert not any(isinstance(event, BulkArrived) for event in two.told)
            await two.until(lambda: any(isinstance(event, BulkArrived) for event in two.told))
            assert await process.ended() == 0
    assert json.loads(process.log[-2])["cut"] == 0


@pytest.mark.parametrize("again", [True, False])
async def test_a_second_sigterm_or_the_deadline_ends_what_would_take_long(again: bool, tmp_path: Path) -> None:
    flags = ("--plain", "--drain", "3600" if again else "0.5", "--limit", "relay-bytes-per-second=1000")
    with trio.fail_after(60):
        async with running(tmp_path, *flags) as process, couple(process.at) as two:
            two.send(bytes(10_000_000))
            process.send(signal.SIGTERM)
            await process.logged("drain.started")
            if again:
                process.send(signal.SIGTERM)
            assert await process.ended() == 0
    events = [json.loads(line)["event"] for line in process.log]
    assert ("drain.cut_short" in events) == again
    assert again or json.loads(process.log[-2])["cut"] > 0


async def test_a_peer_of_a_node_that_goes_down_goes_to_the_next(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with node() as (first, port), node() as (_, other):
            ats = [SignalingAt(f"ws://127.0.0.1:{each}", NODE.peer_id) for each in (port, other)]
            async with couple(*ats) as two:
                two.told.clear()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(first.drain, 10.0)
                    await two.until(lambda: any(isinstance(event, SignalingUp) for event in two.told))
                mesh = two.pair.members.mesh_id
                assert two.anna.signaling()[mesh].at == ats[1]


async def test_a_push_under_way_ends_and_is_on_disk_before_the_node_is_down(tmp_path: Path) -> None:
    lobby = Lobby(NODE, lambda: secrets.token_bytes(16))
    depot = Depot(NODE, tmp_path, time.time, lobby.published)
    listeners = await open_listeners("127.0.0.1", 0)
    node = Node(Server(lobby, depot), listeners, None)
    at = SignalingAt(f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}", NODE.peer_id)
    offer, vector = Offer(1, 0, 0, 4 * FLOATS), bytes(4 * FLOATS)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery, guests() as ring:
            await nursery.start(node.run)
            anna, bert = [hosting(await ring(at), who, at) for who in (ANNA, BERT)]
            for visitor, who in ((anna, ANNA), (bert, BERT)):
                await visitor.enter(own_records(MEMBERS, who.public), MEMBERS.records(), time.time())
            assert isinstance(await anna.offer(offer), Bring)
            nursery.start_soon(node.drain, 60.0)
            with pytest.raises(Turned, match="going down"):  # bert has nothing under way
                await bert.beat()
            assert (await anna.push(offer, 1, vector, sha256(vector).digest())).code == ""
            with pytest.raises(Turned, match="going down"):
                await anna.beat()
            assert samples(node.server.metrics())['discod_signaling_buffer_pushes_total{result="kept"}'] == 1
            nursery.cancel_scope.cancel()
    depot.close()
    with closing(sqlite3.connect(tmp_path / "buffers.sqlite")) as file:
        assert file.execute("SELECT COUNT(*) FROM slot").fetchone() == (1,)


def hosting(line: Conversation, who: Identity, at: SignalingAt) -> Hosting:
    task = encode_task(a_task(NODE))
    mesh = MEMBERS.mesh_id
    stay = Stay(mesh, hosted_scope(mesh, task), make_offer(ANNA, mesh, task, 5), b"o" * 32, FLOATS)
    return Hosting(line, who, at.address, NODE.peer_id, stay)
