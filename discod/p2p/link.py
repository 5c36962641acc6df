"""One authenticated link to one peer: greeting, one writer, one reader, keepalive, and the move to a better path.

    dialler                       listener
       -- TLS 1.3 handshake, then identity = H(key of the leaf), compared on both sides --
       <- Welcome                     (accepted: in TLS 1.3 a refused client's handshake succeeds locally)
       -> Welcome
       <-> ...                        (control passes between the 256 KiB pieces of bulk)
       <-> Moved                      (last frame; the rest goes over the link that replaces this one)
       <-> Bye                        (a clean stop)

Whatever ends a link is a reason in words, returned by `run`; a link is never repaired, only replaced. Queues are in an
Outbox, which outlives a link that is replaced.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Any, Protocol

import trio

from discod.errors import Broken, Refused
from discod.p2p.outbox import BATCH_BYTES, Outbox, Transfer
from discod.p2p.transport import HEADER, Frames, TlsStream
from discod.p2p.trust import Trust
from discod.wire.codec import BULK_PIECE_BYTES, MAX_BULK_BYTES, PROTOCOL_VERSION, decode, encode
from discod.wire.links import (
    BULK,
    CONTROL,
    DATA,
    BulkHeader,
    Bye,
    LinkMessage,
    Moved,
    Ping,
    Pong,
    Refusal,
    Use,
    Welcome,
    bulk_decoder,
    link_decoder,
)

GREETING_SECONDS = 10.0  # handshake, both Welcomes and Use
PING_SECONDS = 5.0
IDLE_SECONDS = 20.0  # without a byte from the other side
SUSPECT_SECONDS = 3.0  # the same, when there is a reason for doubt
STALL_SECONDS = 30.0  # one frame that does not leave
MAX_REFUSED = 1000  # messages of one link


class Receiver(Protocol):
    """Where a link delivers; called by its reader, one call at a time, in the order of arrival."""

    async def received(self, link: Link, message: LinkMessage) -> None:
        """A message that is not about the link itself.  Raises: Refused, Broken."""

    async def expected(self, link: Link, header: BulkHeader) -> memoryview | None:
        """Where the bytes of this transfer go, (header.size,) writable bytes; None to refuse it."""

    async def arrived(self, link: Link, header: BulkHeader, digest: bytes) -> None:
        """All bytes of a transfer are in place; `digest` is their SHA-256."""


class Incoming:
    """A transfer that is being received; without a target its bytes are thrown away."""

    def __init__(self, header: BulkHeader, target: memoryview | None) -> None:
        self.header, self.target, self.received = header, target, 0
        self.hash = sha256()


class Link:
    """A link that has been greeted. `peer` is proven; `path` is "direct" or "relay"."""

    def __init__(self, frames: Frames, peer: bytes, path: str, welcome: Welcome) -> None:
        self.peer, self.path, self.welcome = peer, path, welcome
        self.frames = frames
        self.since = trio.current_time()
        self.rtt_seconds: float | None = None
        self.refused = 0
        self.why: str | None = None  # why it ended
        self.moved_out = self.moved_in = False  # we, they have sent the last frame
        self.finished = trio.Event()
        self._outbox: Outbox | None = None
        self._incoming: Incoming | None = None
        self._scratch: memoryview | None = None
        self._scope = trio.CancelScope()
        self._moving = False
        self._heard = trio.current_time()
        self._delivering = False
        self._doubt: float | None = None
        self._pings: tuple[int, float] = (0, 0.0)

    async def say(self, message: LinkMessage) -> None:
        """Send one message before `run` has begun.  Raises Broken."""
        with _deadline(GREETING_SECONDS, "it does not read what we send"):
            await self.frames.send(CONTROL, encode(message))

    async def hear(self) -> LinkMessage:
        """Receive one message before `run` has begun.  Raises Broken, Refused."""
        with _deadline(GREETING_SECONDS, "it does not say anything"):
            return await _hear(self.frames)

    async def run(self, outbox: Outbox, receiver: Receiver) -> str:
        """Send what `outbox` holds and deliver what comes, until either side ends it; return why.

        Cancellation closes the stream without a Bye and drops a transfer that is under way.
        """
        self._outbox = outbox
        self._heard, self._doubt = trio.current_time(), None  # it may have waited for its turn
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for work in (self._write, lambda: self._read(receiver), self._keep):
                        nursery.start_soon(self._work, work)
        finally:
            self.end("stopped")
            self.finished.set()
            with trio.CancelScope(shield=True):
                await self.frames.stream.aclose()
        assert self.why is not None
        return self.why

    def end(self, why: str) -> None:
        """Stop; the first reason stays."""
        if self.why is None:
            self.why = why
        self._scope.cancel()

    async def close(self, why: str) -> None:
        """Close a link that was never run, with a Bye."""
        with trio.move_on_after(1.0, shield=True):
            with contextlib.suppress(Broken):
                await self.say(Bye(why))
            await self.frames.stream.aclose()

    def move(self) -> None:
        """Finish the transfer under way, say Moved, and send nothing more; reading goes on until theirs."""
        self._moving = True
        if self._outbox is not None:
            self._outbox.wake()

    def suspect(self) -> None:
        """The other side behaves as if this link was gone: ask it, and wait less long."""
        self._doubt = trio.current_time() + SUSPECT_SECONDS
        if self._outbox is not None:
            self._ping()

    async def _work(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Broken as error:
            self.end(error.why)

    async def _write(self) -> None:
        outbox = self._outbox
        assert outbox is not None
        while True:
            bodies = outbox.take_control()
            parts: list[bytes | memoryview] = [
                part for body in bodies for part in (HEADER.pack(1 + len(body), CONTROL), body)
            ]
            pieces = [] if self._moving or outbox.said_bye else outbox.next_pieces(BATCH_BYTES - sum(map(len, bodies)))
            if self._moving and outbox.under_way:
                pieces = outbox.next_pieces(1)
            for transfer, piece in pieces:
                parts += _bulk_parts(transfer, piece)
            if parts:  # one write for all of it: on loopback and in small rounds, writes are what costs
                await self._timed(self.frames.send_parts, *parts)
                outbox.advance(pieces)
            if outbox.said_bye:
                return self.end("we said goodbye")
            if self._moving and not outbox.under_way and not outbox.control:
                return await self._say_moved()
            if not parts:
                await outbox.wait()

    async def _say_moved(self) -> None:
        await self._timed(self.frames.send, CONTROL, encode(Moved()))
        self.moved_out = True
        if self.moved_in:
            self.end("replaced by a better path")
        self._outbox = None

    async def _timed(self, send: Callable[..., Awaitable[None]], *args: Any) -> None:
        with _deadline(STALL_SECONDS, "it does not read what we send"):
            await send(*args)

    async def _read(self, receiver: Receiver) -> None:
        while not self.moved_in:
            kind, length = await self.frames.receive_header()
            self._heard = trio.current_time()
            self._doubt = None
            try:
                await self._frame(receiver, kind, length)
            except Refused as error:
                self._refuse(b"", "message", error.why)

    async def _frame(self, receiver: Receiver, kind: int, length: int) -> None:
        if kind == DATA:
            return await self._data(receiver, length)
        body = await self.frames.receive_body(length)
        self._delivering = True
        try:
            if kind == BULK:
                await self._bulk(receiver, decode(bulk_decoder, body))
            else:
                await self._control(receiver, decode(link_decoder, body))
        finally:
            self._delivering, self._heard = False, trio.current_time()

    async def _control(self, receiver: Receiver, message: LinkMessage) -> None:
        match message:
            case Ping(n=n):
                self._queue(Pong(n))
            case Pong(n=n):
                if n == self._pings[0]:
                    self.rtt_seconds = trio.current_time() - self._pings[1]
            case Bye(why=why):
                self.end(f"it said goodbye: {why[:200]}")
            case Moved():
                if self._incoming is not None:
                    raise Broken(self.peer, "moved in the middle of a transfer")
                self.moved_in = True
                if self.moved_out:
                    self.end("replaced by a better path")
            case Welcome() | Use():
                raise Broken(self.peer, "greeted twice")
            case _:
                await receiver.received(self, message)

    async def _bulk(self, receiver: Receiver, header: BulkHeader) -> None:
        if self._incoming is not None:
            raise Broken(self.peer, "a transfer inside another one")
        if not 0 <= header.size <= MAX_BULK_BYTES:
            raise Broken(self.peer, f"a transfer of {header.size} bytes")
        target = await receiver.expected(self, header)
        assert target is None or target.nbytes == header.size
        self._incoming = Incoming(header, target.cast("B") if target is not None and target.format != "B" else target)
        if target is None:
            self._refuse(header.rid, header.kind, "this transfer is not expected", header.chunk)
        await self._finish_transfer(receiver, self._incoming)

    async def _data(self, receiver: Receiver, length: int) -> None:
        incoming = self._incoming
        if incoming is None:
            raise Broken(self.peer, "data that belongs to no transfer")
        end = incoming.received + length
        if not length or end > incoming.header.size:
            raise Broken(self.peer, "a transfer with more data than it announced")
        view = self._sink(length) if incoming.target is None else incoming.target[incoming.received : end]
        await self.frames.receive_into(view)
        if incoming.target is not None:
            incoming.hash.update(view)
        incoming.received = end
        await self._finish_transfer(receiver, incoming)

    async def _finish_transfer(self, receiver: Receiver, incoming: Incoming) -> None:
        if incoming.received < incoming.header.size:
            return
        self._incoming = None
        if incoming.target is None:
            return
        self._delivering = True
        try:
            await receiver.arrived(self, incoming.header, incoming.hash.digest())
        finally:
            self._delivering, self._heard = False, trio.current_time()

    def _sink(self, length: int) -> memoryview:
        if self._scratch is None:
            self._scratch = memoryview(bytearray(BULK_PIECE_BYTES))
        return self._scratch[:length]

    def _refuse(self, rid: bytes, kind: str, why: str, chunk: int = 0) -> None:
        self.refused += 1
        if self.refused > MAX_REFUSED:
            raise Broken(self.peer, f"more than {MAX_REFUSED} refused messages, the last one: {why}")
        self._queue(Refusal(rid, kind, why, chunk))

    def _queue(self, message: LinkMessage) -> None:
        if self._outbox is not None and not self._outbox.put(encode(message)):
            raise Broken(self.peer, "it does not read what we send")

    async def _keep(self) -> None:
        while True:
            self._ping()
            await trio.sleep(SUSPECT_SECONDS if self._doubt else PING_SECONDS)
            now = trio.current_time()
            if self._delivering or self.moved_in:
                continue  # it is us who do not listen, or they have said their last word here
            if now - self._heard >= IDLE_SECONDS or (self._doubt is not None and now >= self._doubt):
                raise Broken(self.peer, f"nothing heard for {now - self._heard:.0f} s")

    def _ping(self) -> None:
        if not self.moved_out:
            self._pings = (self._pings[0] + 1, trio.current_time())
            self._queue(Ping(self._pings[0]))


async def greet(
    transport: trio.abc.Stream, trust: Trust, welcome: Welcome, path: str, *, dialling: bool, want: bytes | None = None
) -> Link:
    """Shake hands and exchange Welcomes over a fresh stream, which is closed when that fails.

    want: the PeerId that was dialled, if it must be that one.
    Raises: Broken.
    """
    stream = TlsStream(transport, trust.client if dialling else trust.server, server_side=not dialling)
    try:
        with _deadline(GREETING_SECONDS, "it did not greet us in time"):
            return await _greet(stream, trust, welcome, path, dialling, want)
    except BaseException:
        with trio.CancelScope(shield=True):
            await stream.aclose()
        raise


async def _greet(
    stream: TlsStream, trust: Trust, welcome: Welcome, path: str, dialling: bool, want: bytes | None
) -> Link:
    await stream.do_handshake()
    peer = trust.peer(stream.peer_certificate())
    if want is not None and peer != want:
        raise Broken(peer, "another peer answered at this address")
    frames = Frames(stream)
    if dialling:
        theirs = await _hear(frames)
        await frames.send(CONTROL, encode(welcome))
    else:
        await frames.send(CONTROL, encode(welcome))
        theirs = await _hear(frames)
    match theirs:
        case Welcome(protocol=version) if version == PROTOCOL_VERSION:
            return Link(frames, peer, path, theirs)
        case Welcome(protocol=version):
            raise Broken(peer, f"it speaks protocol version {version}, this is {PROTOCOL_VERSION}")
        case Bye(why=why):
            raise Broken(peer, f"it said goodbye: {why[:200]}")
    raise Broken(peer, "it did not greet")


async def _hear(frames: Frames) -> LinkMessage:
    kind, length = await frames.receive_header()
    if kind != CONTROL:
        raise Broken(None, "bulk before the greeting")
    message: LinkMessage = decode(link_decoder, await frames.receive_body(length))
    return message


class _deadline:  # noqa: N801  (a context manager that reads like a function)
    """Turns a wait that takes too long into Broken."""

    def __init__(self, seconds: float, why: str) -> None:
        self._scope, self._why = trio.CancelScope(deadline=trio.current_time() + seconds), why

    def __enter__(self) -> None:
        self._scope.__enter__()

    def __exit__(self, *exc: Any) -> bool | None:
        swallowed = self._scope.__exit__(*exc)
        if self._scope.cancelled_caught:
            raise Broken(None, self._why)
        return swallowed


def _bulk_parts(transfer: Transfer, piece: memoryview) -> list[bytes | memoryview]:
    """The frames of the next piece of a transfer, after its header if it is the first."""
    parts: list[bytes | memoryview] = []
    if not transfer.begun:
        head = encode(transfer.header)
        parts += [HEADER.pack(1 + len(head), BULK), head]
    if len(piece):
        parts += [HEADER.pack(1 + len(piece), DATA), piece]
    return parts
