"""TLS 1.3 over any trio stream, and the frames inside it: bulk goes straight into the buffer it is meant for.

    u32 little-endian length of what follows | u8 kind | body         (discod/wire/links.py says what the bodies are)

We use the public ssl.MemoryBIO / SSLObject instead of trio.SSLStream, which hands out one 16 KiB record for each pass
of the scheduler; this one drains a whole read of 256 KiB before it waits again, and it delivers the alert with which a
handshake is refused. Decrypting happens in the trio thread: 256 KiB take about 0.1 ms, less than a thread costs.

Identity is the Ed25519 key of the certificate the other side presented, never a name in it: a name or an issuer can be
anything (docs/security.md, links).
"""

from __future__ import annotations

import contextlib
import ssl
import struct
from collections import Counter

import trio

from discod.errors import Broken
from discod.wire.codec import BULK_PIECE_BYTES, MAX_CONTROL_BYTES
from discod.wire.links import BULK, CONTROL, DATA

READ_BYTES = 256 << 10  # one read of the transport; many TLS records
CLOSE_SECONDS = 1.0  # to say goodbye to a side that may be gone
HEADER = struct.Struct("<IB")
FRAME_LIMITS = {CONTROL: MAX_CONTROL_BYTES, BULK: 1024, DATA: BULK_PIECE_BYTES}

Buffer = bytes | bytearray | memoryview


def client_context() -> ssl.SSLContext:
    """TLS 1.3 and nothing older, the other side's certificate required; anchors and own certificate come later."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _strict(context)


def server_context() -> ssl.SSLContext:
    """As `client_context`, for the side that is dialled: no session tickets, so every link is a full handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    return _strict(context)


def _strict(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    return context


class TlsStream(trio.abc.Stream):
    """A TLS session over `transport`, which it owns. One task may send while another receives.

    Cancelling a send leaves the session unusable (part of a record may be out); cancelling a receive loses nothing.
    """

    def __init__(self, transport: trio.abc.Stream, context: ssl.SSLContext, *, server_side: bool) -> None:
        self.transport = transport
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self._torn = False  # a send is under way, or was given up half-way: what follows it could not be decrypted

    async def do_handshake(self) -> None:
        """Shake hands. On the dialling side success does not yet mean acceptance: TLS 1.3 tells it with the next read.

        Raises:
            Broken: refused by either side (ours has sent its alert), or the other side went away.
        """
        while True:
            try:
                self._session.do_handshake()
                return await self._flush()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLError as error:
                await self._flush_alert()
                raise Broken(None, f"TLS handshake failed: {_reason(error)}") from None

    def peer_certificate(self) -> bytes:
        """The DER certificate that the other side presented and proved to own; valid after the handshake."""
        certificate = self._session.getpeercert(binary_form=True)
        if certificate is None:
            raise Broken(None, "no certificate was presented")
        return certificate

    async def send_parts(self, *parts: Buffer) -> None:
        """Encrypt and send the parts one after the other, in as few writes as possible.

        Raises:
            Broken: the other side is gone.
        """
        try:
            for part in parts:
                self._session.write(part)
        except ssl.SSLError as error:  # the session ended while we waited for our turn
            raise Broken(None, f"TLS: {_reason(error)}") from None
        await self._flush()

    async def send_all(self, data: Buffer) -> None:
        with memoryview(data) as view:
            for start in range(0, len(view), READ_BYTES):
                await self.send_parts(view[start : start + READ_BYTES])

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        buffer = bytearray(max_bytes or READ_BYTES)
        count = await self._receive_available(memoryview(buffer))
        return bytes(buffer[:count])

    async def receive_into(self, view: memoryview) -> None:
        """Fill `view` entirely.

        Raises:
            Broken: the stream ended first, or what came is not what the other side encrypted.
        """
        filled = 0
        while filled < len(view):
            count = await self._receive_available(view[filled:])
            if not count:
                raise Broken(None, "the other side closed the connection")
            filled += count

    async def _receive_available(self, view: memoryview) -> int:
        """Decrypt at least one byte, and all that is here and fits; 0 at a clean end."""
        filled = 0
        while filled < len(view):
            try:
                count = int(self._session.read(len(view) - filled, view[filled:]))
            except ssl.SSLWantReadError:
                if filled:
                    break
                await self._fill()
                continue
            except ssl.SSLZeroReturnError:
                break
            except ssl.SSLError as error:
                raise Broken(None, f"TLS: {_reason(error)}") from None
            if not count:
                break
            filled += count
        return filled

    async def _fill(self) -> None:
        try:
            data = await self.transport.receive_some(READ_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Broken(None, f"connection lost: {error.__cause__ or error}") from None
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        if not self._outgoing.pending:
            return
        self._torn = True
        try:
            await self.transport.send_all(self._outgoing.read())
            self._torn = False
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Broken(None, f"connection lost: {error.__cause__ or error}") from None

    async def _flush_alert(self) -> None:
        with trio.move_on_after(CLOSE_SECONDS):
            try:
                await self._flush()
            except Broken:
                return  # it left without waiting for our reason

    async def wait_send_all_might_not_block(self) -> None:
        await self.transport.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Say so to the other side if that is possible at once, then close the transport."""
        if not self._torn:
            with contextlib.suppress(ssl.SSLError, ValueError):
                self._session.unwrap()  # the other side's answer is not waited for
            await self._flush_alert()
        await self.transport.aclose()


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"their certificate is not a member's ({error.verify_message})"
    if isinstance(error, ssl.SSLEOFError):
        return "the other side closed the connection"
    reason = (error.reason or str(error)).replace("_", " ").lower()
    if "alert" in reason and ("unknown ca" in reason or "certificate" in reason):
        return f"the other side does not take us for a member ({reason})"
    return reason


class Frames:
    """Frames over one TLS stream, with the bytes of each kind counted both ways."""

    def __init__(self, stream: TlsStream) -> None:
        self.stream = stream
        self.sent: Counter[int] = Counter()  # bytes by kind of frame, headers included
        self.received: Counter[int] = Counter()
        self._header = bytearray(HEADER.size)

    async def send(self, kind: int, body: Buffer) -> None:
        """Send one frame.  Raises Broken."""
        await self.send_parts(HEADER.pack(1 + len(body), kind), body)

    async def send_parts(self, *parts: Buffer) -> None:
        """Send whole frames, each given as header and body, in one write.  Raises Broken."""
        await self.stream.send_parts(*parts)
        for head, body in zip(parts[::2], parts[1::2], strict=True):
            self._count(self.sent, head[HEADER.size - 1], len(body))

    async def send_many(self, bodies: list[bytes]) -> None:
        """Send several control frames in one write.  Raises Broken."""
        joined = b"".join(HEADER.pack(1 + len(body), CONTROL) + body for body in bodies)
        await self.stream.send_all(joined)
        self.sent[CONTROL] += len(joined)

    async def receive_header(self) -> tuple[int, int]:
        """Kind and length of the next frame, checked before anything is allocated for it.

        Raises:
            Broken: no such kind, or longer than that kind may be.
        """
        await self.stream.receive_into(memoryview(self._header))
        length, kind = HEADER.unpack(self._header)
        if (limit := FRAME_LIMITS.get(kind)) is None:
            raise Broken(None, f"unknown kind of frame {kind}")
        if not 1 <= length <= 1 + limit:
            raise Broken(None, f"frame of {length} bytes, at most {1 + limit} are allowed")
        self._count(self.received, kind, length - 1)
        return kind, length - 1

    async def receive_body(self, length: int) -> bytes:
        """The body of a frame that is not bulk data.  Raises Broken."""
        body = bytearray(length)
        await self.stream.receive_into(memoryview(body))
        return bytes(body)

    async def receive_into(self, view: memoryview) -> None:
        """The body of a data frame, straight into its place.  Raises Broken."""
        await self.stream.receive_into(view)

    @staticmethod
    def _count(counters: Counter[int], kind: int, body: int) -> None:
        counters[kind] += HEADER.size + body
