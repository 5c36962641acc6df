"""One connection of the node: its stream, the handshakes it begins with, its queue and where it stands."""

from __future__ import annotations

import math

import trio
from trio_websocket import WebSocketConnection

from discod.errors import Broken
from signaling.depot import Visit
from signaling.heads import MAX_HEAD_BYTES
from signaling.limits import Gate
from signaling.relay import Outgoing

TLS_HELLO = b"\x16\x03"  # somebody speaks TLS to a node without: closed at once, so that they can try plainly


class Prefixed(trio.abc.Stream):
    """A stream in front of which bytes that were read too early are put back."""

    def __init__(self, head: bytes, stream: trio.abc.Stream) -> None:
        self._head, self._stream = head, stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._head:
            size = max_bytes or len(self._head)
            head, self._head = self._head[:size], self._head[size:]
            await trio.lowlevel.checkpoint()
            return head
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


class GoingAway(Broken):
    """The node goes down, and this guest has nothing under way."""


class Connection:
    """One guest's WebSocket with its queue; `other` is the far end once it is spliced, `moved` when bytes last came."""

    def __init__(self, socket: WebSocketConnection, scope: trio.CancelScope, queued_bytes: int) -> None:
        self.socket, self.scope = socket, scope
        self.outgoing = Outgoing(queued_bytes)
        self.other: int | None = None
        self.moved = 0.0
        self.peer = ""  # for the log, once it has joined
        self.visit: Visit | None = None
        self.waiting = trio.CancelScope()  # for a visitor's next message


class Opening:
    """The handshakes of a connection, which have one deadline."""

    def __init__(self, gate: Gate, address: str, patience: trio.CancelScope) -> None:
        self._gate, self._address, self._patience = gate, address, patience

    def over(self) -> None:
        """They are done, or it left before."""
        if self._address:
            self._gate.opened(self._address)
            self._address, self._patience.deadline = "", math.inf


async def read_head(stream: trio.abc.Stream) -> bytes:
    """Up to the empty line, a little more, or too much; empty when it left before."""
    head = b""
    while b"\r\n\r\n" not in head and len(head) <= MAX_HEAD_BYTES and not head.startswith(TLS_HELLO):
        data = await stream.receive_some(MAX_HEAD_BYTES)
        if not data:
            return b""
        head += data
    return head
