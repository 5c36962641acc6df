"""The node over real sockets on loopback: one port, its limits, the process, and two daemons' meshes through it."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from discod.errors import Broken, UserError
from discod.identity import Identity, Members, found_mesh, make_invite, make_link, parse_link
from discod.p2p.mesh import BulkArrived, Mesh, Settings, SignalingAt, ask_signaling
from discod.p2p.websocket import call
from discod.wire.codec import decode
from discod.wire.links import BulkHeader
from discod.wire.signaling import Denied, from_node
from signaling.limits import DEFAULTS, Limits
from signaling.lobby import Lobby
from signaling.node import node_context, node_key, open_listeners, run_node
from signaling.relay import Outgoing

NODE = Identity.from_seed(b"N" * 32)


@asynccontextmanager
async def node(
    tmp_path: Path, *, tls: bool = True, settable: Limits = DEFAULTS, port: int = 0
) -> AsyncIterator[SignalingAt]:
    lobby = Lobby(NODE, lambda: secrets.token_bytes(16), settable=settable)
    listeners = await open_listeners("127.0.0.1", port)
    bound = listeners[0].socket.getsockname()[1]
    context = node_context(NODE, tmp_path) if tls else None
    async with trio.open_nursery() as nursery:
        await nursery.start(run_node, lobby, listeners, context)
        yield SignalingAt(f"{'wss' if tls else 'ws'}://127.0.0.1:{bound}", NODE.peer_id)
        nursery.cancel_scope.cancel()


async def http(at: SignalingAt, request: bytes) -> bytes:
    stream = await trio.open_tcp_stream("127.0.0.1", int(at.address.rpartition(":")[2]))
    async with stream:
        await stream.send_all(request)
        answer = b""
        while data := await stream.receive_some(4096):
            answer += data
        return answer


async def test_one_port_answers_health_and_refuses_the_rest(tmp_path: Path) -> None:
    async with node(tmp_path, tls=False) as at:
        answer = await http(at, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"ok": True, "connections": 0, "rooms": 0, "peers": 0}
        for request, status in (
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
            (b"GET /v1 HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
            (b"nonsense\r\n\r\n", b"404"),
            (b"GET /" + b"a" * 9000 + b"\r\n\r\n", b"431"),
        ):
            assert (await http(at, request)).split(b" ")[1] == status


async def test_key_is_taken_on_first_use_with_or_without_tls(tmp_path: Path) -> None:
    for tls in (True, False):
        async with node(tmp_path, tls=tls) as at:
            asked = await ask_signaling(at.address)
            assert asked.at == at
            assert abs(asked.clock_skew_seconds) < 5
            assert (await ask_signaling(at.url)).at == at
    with pytest.raises(UserError, match=r"no signaling node at 127\.0\.0\.1:1"):
        await ask_signaling("127.0.0.1:1")


async def test_garbage_is_answered_by_name_and_the_connection_closed(tmp_path: Path) -> None:
    async with node(tmp_path) as at, trio.open_nursery() as nursery:
        conversation = await call(at, nursery)
        await conversation.send(b"\xc1garbage")
        denied = decode(from_node, await conversation.receive())
        assert isinstance(denied, Denied)
        assert denied.code == "broken"
        with pytest.raises(Broken):
            await conversation.receive()
        await conversation.aclose()
        conversation = await call(at, nursery)
        await conversation.send(bytes(100_000))
        with pytest.raises(Broken):
            await conversation.receive()
        await conversation.aclose()
        nursery.cancel_scope.cancel()


async def test_reader_that_does_not_read_is_dropped_not_waited_for() -> None:
    outgoing = Outgoing(4 << 20)
    message = bytes(1 << 20)
    assert [outgoing.put(message) for _ in range(5)] == [True] * 4 + [False]
    assert await outgoing.take() == message
    outgoing.close()
    for _ in range(3):
        await outgoing.take()
    assert await outgoing.take() is None


async def test_relayed_bytes_wait_for_their_reader(autojump_clock: trio.testing.MockClock) -> None:
    outgoing = Outgoing(1 << 20)
    assert await outgoing.put_relayed(bytes(300_000))
    assert not await outgoing.put_relayed(b"x")  # nobody takes: given up after a deadline
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outgoing.put_relayed, b"y")
        await outgoing.take()
        assert await outgoing.take() == b"y"


class Pair:
    """anna and bert, who may only dial out, through a real node."""

    def __init__(self, at: SignalingAt) -> None:
        self.members, root, seed = Members(b""), Identity.from_seed(os.urandom(32)), os.urandom(32)
        self.a, self.b = (Identity.from_seed(os.urandom(32)) for _ in range(2))
        now = 2_000_000_000
        self.members = Members(root.public)
        for record in found_mesh(root, self.a, "m", "anna", 1, os.urandom(32)):
            self.members.add(record)
        self.members.add(make_invite(root, Identity.from_seed(seed).public, uses=1, expires=now))
        host, port = at.address.split(":")
        text = make_link(host, int(port), self.members.mesh_id, at.key, seed, tls=at.tls)
        self.link = parse_link(text)


async def pump(mesh: Mesh, told: list[object], news: trio.Condition) -> None:
    while True:
        event = await mesh.events.receive()
        async with news:
            told.append(event)
            news.notify_all()


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "off"])
async def test_two_meshes_join_and_exchange_bulk_directly_and_by_relay(tmp_path: Path, listen: str) -> None:
    data = os.urandom(2_000_000)
    buffer = bytearray(len(data))
    async with node(tmp_path) as at, trio.open_nursery() as nursery:
        pair = Pair(at)
        anna, bert = Mesh(pair.a, "anna", Settings(listen=listen)), Mesh(pair.b, "bert", Settings(listen=listen))
        bert.expect = lambda peer, header: memoryview(buffer)
        anna.add_mesh(pair.members, [at])
        told: list[object] = []
        news = trio.Condition()
        for mesh in (anna, bert):
            await nursery.start(mesh.run)
            nursery.start_soon(pump, mesh, told, news)
        with trio.fail_after(30):
            await bert.join(pair.link, "bert")
            async with news:
                while pair.b.peer_id not in anna.linked() or pair.a.peer_id not in bert.linked():
                    await news.wait()
            assert anna.linked()[pair.b.peer_id].path == ("relay" if listen == "off" else "direct")
            anna.send_bulk(pair.b.peer_id, BulkHeader(b"", b"", "piece", 0, len(data)), data)
            async with news:
                while not any(isinstance(event, BulkArrived) for event in told):
                    await news.wait()
        assert buffer == data
        nursery.cancel_scope.cancel()


async def test_relay_over_its_quota_ends_with_a_named_error(tmp_path: Path) -> None:
    data = bytes(1_000_000)
    async with node(tmp_path, settable=Limits(relay_bytes_per_minute=100_000)) as at, trio.open_nursery() as nursery:
        pair = Pair(at)
        anna, bert = (Mesh(who, "x", Settings(listen="off")) for who in (pair.a, pair.b))
        bert.expect = lambda peer, header: memoryview(bytearray(header.size))
        anna.add_mesh(pair.members, [at])
        told: list[object] = []
        news = trio.Condition()
        for mesh in (anna, bert):
            await nursery.start(mesh.run)
            nursery.start_soon(pump, mesh, told, news)
        with trio.fail_after(30):
            await bert.join(pair.link, "bert")
            async with news:
                while pair.b.peer_id not in anna.linked():
                    await news.wait()
            anna.send_bulk(pair.b.peer_id, BulkHeader(b"", b"", "piece", 0, len(data)), data)
            async with news:
                while not any("0.1 MB a minute" in getattr(event, "why", "") for event in told):
                    await news.wait()
        nursery.cancel_scope.cancel()


async def test_taken_port_and_foreign_address_are_named(tmp_path: Path) -> None:
    async with node(tmp_path) as at:
        with pytest.raises(UserError, match="in use") as raised:
            await open_listeners("127.0.0.1", int(at.address.rpartition(":")[2]))
        assert raised.value.code == "port-taken"
    with pytest.raises(UserError, match="cannot listen") as raised:
        await open_listeners("192.0.2.1", 0)
    assert raised.value.hint


def test_key_is_made_once_and_private(tmp_path: Path) -> None:
    first = node_key(tmp_path / "state")
    assert node_key(tmp_path / "state").peer_id == first.peer_id
    assert (tmp_path / "state" / "signaling.key").stat().st_mode & 0o777 == 0o600


async def test_process_says_where_it_listens_serves_and_ends_on_sigterm(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "signaling", "serve", "--listen", "127.0.0.1:0", "--home", str(tmp_path), "--json"]
    process = subprocess.Popen(  # noqa: ASYNC220  (starting is quick; its pipes are read in threads)
        command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    try:
        assert process.stdout is not None
        line = await trio.to_thread.run_sync(process.stdout.readline)
        said = json.loads(line)["data"]
        asked = await ask_signaling(said["url"])
        assert asked.at.key.hex() == said["key_hex"]
    finally:
        process.send_signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(process.wait, 10) == 0
        process.stdout.close()  # type: ignore[union-attr]
