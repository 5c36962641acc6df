"""A signaling node as a process or in this one, certificate files for it, and guests that call it."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from discod.identity import Identity
from discod.p2p.websocket import Conversation, SignalingAt, call
from discod.wire.codec import PROTOCOL_VERSION, decode, encode
from discod.wire.signaling import Beat, FromNode, Knock, Redeem, from_node
from signaling.limits import DEFAULTS, Limits
from signaling.lobby import Lobby
from signaling.node import Node, open_listeners
from signaling.server import Server

NODE = Identity.from_seed(b"N" * 32)
ROOT = Path(__file__).parents[2]


class Process:
    """`discod-signaling serve` on loopback; `log` grows as its lines are read."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: dict[str, Any] = {}
        self.log: list[str] = []

    @property
    def at(self) -> SignalingAt:
        return SignalingAt(self.said["url"], bytes.fromhex(self.said["key_hex"]))

    @property
    def port(self) -> int:
        return int(self.said["listen"].rpartition(":")[2])

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def logged(self, event: str) -> dict[str, Any]:
        """Read the log up to this event."""
        assert self.process.stderr is not None
        while line := await trio.to_thread.run_sync(self.process.stderr.readline):
            self.log.append(line)
            if json.loads(line)["event"] == event:
                return dict(json.loads(line))
        raise AssertionError(f"no {event} in {''.join(self.log)}")

    async def ended(self) -> int:
        """Its exit code, all of its log read."""
        assert self.process.stderr is not None
        self.log += await trio.to_thread.run_sync(self.process.stderr.readlines)
        return await trio.to_thread.run_sync(self.process.wait)


@asynccontextmanager
async def running(home: Path, *flags: str) -> AsyncIterator[Process]:
    """The process, killed at the end if it has not ended by then."""
    words = ["serve", "--listen", "127.0.0.1:0", "--home", str(home), "--json", *flags]
    pipe = subprocess.PIPE
    with subprocess.Popen(  # noqa: ASYNC220  (starting is quick; its pipes are read in threads)
        [sys.executable, "-m", "signaling", *words], stdout=pipe, stderr=pipe, text=True, cwd=ROOT
    ) as process:
        try:
            node = Process(process)
            assert process.stdout is not None
            node.said = json.loads(await trio.to_thread.run_sync(process.stdout.readline))["data"]
            yield node
        finally:
            process.kill()


async def get(port: int, path: str) -> str:
    """The body of what a node without TLS answers."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = b""
        while data := await stream.receive_some(4096):
            answer += data
    return answer.partition(b"\r\n\r\n")[2].decode()


def samples(text: str) -> dict[str, float]:
    """What Prometheus would read; every line is a comment, or a name with a value."""
    found = {}
    for line in text.splitlines():
        if not line.startswith(("# HELP ", "# TYPE ")):
            name, _, value = line.rpartition(" ")
            found[name] = float(value)
    return found


def certificate_files(
    directory: Path, name: str, *, start: timedelta = timedelta(hours=-1), end: timedelta = timedelta(hours=1)
) -> tuple[Path, Path]:
    """A self-signed certificate for localhost, valid from and until so long from now, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now + start)
        .not_valid_after(now + end)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = directory / f"{name}.pem", directory / f"{name}.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return paths


@asynccontextmanager
async def node(settable: Limits = DEFAULTS, proxies: frozenset[str] = frozenset()) -> AsyncIterator[tuple[Node, int]]:
    """A node without TLS in this process, and its port."""
    server = Server(Lobby(NODE, lambda: secrets.token_bytes(16), settable=settable))
    listeners = await open_listeners("127.0.0.1", 0)
    found = Node(server, listeners, None, proxies)
    async with trio.open_nursery() as nursery:
        await nursery.start(found.run)
        yield found, listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def guests() -> AsyncIterator[Callable[[SignalingAt], Awaitable[Conversation]]]:
    """How to call a node; every conversation ends with the block."""
    opened: list[Conversation] = []
    async with trio.open_nursery() as nursery:

        async def ring(at: SignalingAt) -> Conversation:
            opened.append(await call(at, nursery))
            return opened[-1]

        try:
            yield ring
        finally:
            with trio.CancelScope(shield=True):
                for conversation in opened:
                    await conversation.aclose()
        nursery.cancel_scope.cancel()


async def ask(conversation: Conversation, message: Knock | Redeem | Beat) -> FromNode:
    await conversation.send(encode(message))
    return heard(await conversation.receive())


def heard(data: bytes) -> FromNode:
    message: FromNode = decode(from_node, data)
    return message


async def greet(conversation: Conversation, at: SignalingAt) -> FromNode:
    return await ask(conversation, Knock(PROTOCOL_VERSION, b"n" * 16, at.address))
