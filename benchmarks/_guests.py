"""Guests of a real signaling node for bench crowd and bench relay: a process of its own, and peers that join by hand.

Every peer gives the node what a daemon would: an invite, its membership, the admission, addresses.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import trio
from trio_websocket import wrap_client_stream

from discod.errors import Broken, UserError
from discod.identity import (
    Identity,
    Members,
    found_mesh,
    make_addresses,
    make_admit,
    make_invite,
    make_membership,
    parse_record,
)
from discod.p2p.addresses import split_address
from discod.p2p.rendezvous import make_join, own_records
from discod.p2p.websocket import SignalingAt, WebSocket, node_tls
from discod.wire.codec import MAX_SIGNALING_BYTES, PROTOCOL_VERSION, decode, encode
from discod.wire.signaling import Denied, FromNode, Hello, Knock, Room, ToNode, from_node

REPOSITORY = Path(__file__).resolve().parent.parent
READY_SECONDS = 30.0
NOW = 1_700_000_000  # of all records


class Node:
    """A running node: where it is, and what it costs."""

    def __init__(self, at: SignalingAt, pid: int) -> None:
        self.at, self.pid = at, pid

    def cpu_seconds(self) -> float:
        """What it has computed so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def open_node(flags: Sequence[str], core: int | None) -> AsyncIterator[Node]:
    """A node on loopback, on one core if that is given; it ends with the block."""
    with tempfile.TemporaryDirectory(prefix="ddb") as home:
        command = ["-m", "signaling", "serve", "--listen", "127.0.0.1:0", "--home", home, "--json", *flags]
        process = await trio.lowlevel.open_process(
            [sys.executable, *command], stdout=subprocess.PIPE, cwd=REPOSITORY, start_new_session=True
        )
        try:
            if core is not None:
                os.sched_setaffinity(process.pid, {core})
            said = json.loads(await first_line(process, "the signaling node does not start"))["data"]
            yield Node(SignalingAt(said["url"], bytes.fromhex(said["key_hex"])), process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            with trio.CancelScope(shield=True):
                await process.wait()


async def first_line(process: trio.Process, trouble: str) -> bytes:
    """What a process says first.  Raises: UserError when that does not come."""
    assert process.stdout is not None
    line = b""
    with trio.move_on_after(READY_SECONDS):
        while not line.endswith(b"\n") and (data := await process.stdout.receive_some()):
            line += data
    if not line.endswith(b"\n"):
        raise UserError(trouble, "what it said is above")
    return line


def people(count: int, name: str) -> tuple[Members, list[Identity]]:
    """The records of a mesh of `count` members, and their identities."""

    def identity(what: str) -> Identity:
        return Identity.from_seed(sha256(f"{name}/{what}".encode()).digest())

    root, key, everybody = identity("root"), identity("key"), [identity(str(number)) for number in range(count)]
    first, *others = everybody
    members = Members(root.public)
    records = [*found_mesh(root, first, "bench", "0", NOW, bytes(32))]
    records.append(make_invite(root, key.public, uses=max(1, len(others)), expires=NOW + 1000))
    for slot, who in enumerate(others):
        membership = make_membership(key, who, members.mesh_id, str(slot + 1), slot=slot, now=NOW)
        records += [membership, make_admit(first, parse_record(membership), NOW)]
    for who in everybody:
        records.append(make_addresses(who, members.mesh_id, ("192.0.2.7:7340",), seq=1, now=NOW))
    for record in records:
        members.add(record)
    return members, everybody


class Guest:
    """A connection to the node, from an address of our choice."""

    def __init__(self, socket: WebSocket, at: SignalingAt) -> None:
        self.socket, self._at = socket, at

    async def say(self, message: ToNode) -> None:
        """Raises: Broken."""
        await self.socket.send(encode(message))

    async def hear(self) -> FromNode:
        """Raises: Broken."""
        message: FromNode = decode(from_node, await self.socket.receive(), MAX_SIGNALING_BYTES)
        return message

    async def join(self, who: Identity, members: Members) -> None:
        """Enter the room.  Raises: Broken, with the code of a refusal."""
        await self.say(Knock(PROTOCOL_VERSION, bytes(16), self._at.address))
        hello = await self.hear()
        if not isinstance(hello, Hello):
            raise Broken(None, hello.code if isinstance(hello, Denied) else "no Hello")
        own = own_records(members, who.public)
        await self.say(make_join(who, hello.nonce, self._at.address, members.mesh_id, own, NOW))
        room = await self.hear()
        if not isinstance(room, Room):
            raise Broken(None, room.code if isinstance(room, Denied) else "no Room")


async def dial(at: SignalingAt, source: str) -> trio.SocketStream:
    """A bare connection from this loopback address."""
    host, port = split_address(at.address)
    return await trio.open_tcp_stream(host, port, local_address=source)


async def _close_in_the_end(tcp: trio.SocketStream) -> None:
    try:
        await trio.sleep_forever()
    finally:
        tcp.socket.close()


async def call_from(at: SignalingAt, source: str, nursery: trio.Nursery) -> Guest:
    """A WebSocket from this loopback address, closed when the nursery is cancelled.

    Raises: OSError, BrokenResourceError, HandshakeError.
    """
    tcp = await dial(at, source)
    nursery.start_soon(_close_in_the_end, tcp)
    try:
        stream: Any = tcp
        if at.tls:
            stream = trio.SSLStream(tcp, node_tls(), https_compatible=True)
            await stream.do_handshake()
        socket = await wrap_client_stream(
            nursery,
            stream,
            at.address,
            "/v1",
            max_message_size=MAX_SIGNALING_BYTES,
            receive_buffer_size=MAX_SIGNALING_BYTES,
        )
        return Guest(WebSocket(socket, tcp, source), at)
    except BaseException:
        await trio.aclose_forcefully(tcp)
        raise
