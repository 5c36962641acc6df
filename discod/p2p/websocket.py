"""Calling a signaling node: its address, one WebSocket conversation, and the byte stream a spliced one becomes."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable
from typing import Any, Protocol

import trio
from msgspec import Struct
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, wrap_client_stream

from discod.errors import Broken, PeerError, SignalingUnreachable, UsageError
from discod.identity import InviteLink, certificate_key, peer_id
from discod.identity.links import DEFAULT_PORT
from discod.p2p.addresses import is_loopback_host, split_address
from discod.p2p.proxy import open_way, proxy_for
from discod.p2p.rendezvous import hello_trouble
from discod.wire.codec import MAX_SIGNALING_BYTES, PROTOCOL_VERSION, decode, encode
from discod.wire.signaling import Denied, Hello, Knock, Redeem, Spliced, from_node

GONE = (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError)
CONNECT_SECONDS = 8.0  # TCP, TLS and the WebSocket handshake
CLOSE_SECONDS = 0.3  # for the node to answer our goodbye
RELAY_MESSAGE_BYTES = 60 << 10
TRY_NODE = "is it running, and is the address right? On that machine: discod signaling serve"


class SignalingAt(Struct, frozen=True):
    """A signaling node: "wss://HOST:PORT" or "ws://HOST:PORT", and the (32,) id of its key."""

    url: str
    key: bytes

    @classmethod
    def of_link(cls, link: InviteLink) -> SignalingAt:
        """The node an invite link names."""
        return cls(f"{'wss' if link.tls else 'ws'}://{link.address}", link.signaling)

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted (its key is proven either way)."""
        return self.url.startswith("wss://")

    @property
    def address(self) -> str:
        """HOST:PORT, IPv6 in brackets; what Hello's signature covers."""
        return self.url.partition("://")[2]

    @property
    def is_loopback(self) -> bool:
        """Whether the node runs on this machine: only then loopback addresses of peers mean anything."""
        return is_loopback_host(split_address(self.address)[0])


class Conversation(Protocol):
    """Whole messages to and from a node."""

    local_host: str  # our address on that connection, as far as known

    async def send(self, data: bytes) -> None:
        """Raises: Broken."""

    async def receive(self) -> bytes:
        """Raises: Broken."""

    async def aclose(self) -> None:
        """Hang up."""


class WebSocket:
    """A Conversation over a WebSocket."""

    def __init__(self, connection: WebSocketConnection, stream: trio.abc.Stream, local_host: str) -> None:
        self._connection, self._stream, self.local_host = connection, stream, local_host

    async def send(self, data: bytes) -> None:
        try:
            await self._connection.send_message(data)
        except GONE as error:
            raise Broken(None, _closed(error)) from None

    async def receive(self) -> bytes:
        try:
            data = await self._connection.get_message()
        except GONE as error:
            raise Broken(None, _closed(error)) from None
        return data.encode() if isinstance(data, str) else bytes(data)

    async def aclose(self) -> None:
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            await self._connection.aclose()
        await trio.aclose_forcefully(self._stream)


async def call(at: SignalingAt, nursery: trio.Nursery) -> Conversation:
    """Open a WebSocket; its reader runs in `nursery`, and the caller closes it.

    Raises: Broken, saying what did not work.
    """
    try:
        with trio.fail_after(CONNECT_SECONDS):
            try:
                return await _open(at, nursery, proven=False)
            except Unproven:
                return await _open(at, nursery, proven=True)
    except trio.TooSlowError:
        raise Broken(None, f"{at.address} does not answer") from None
    except OSError as error:
        raise Broken(None, f"cannot connect to {at.address}: {error.strerror or error}") from None
    except (trio.BrokenResourceError, HandshakeError) as error:
        raise Broken(None, _trouble(at, error)) from None


class Unproven(Exception):
    """The node's certificate is not that of its pinned key."""


async def _open(at: SignalingAt, nursery: trio.Nursery, *, proven: bool) -> WebSocket:
    stream, tcp = await _way(at)
    try:
        if at.tls:
            stream = await _secured(stream, at, proven=proven)
        local = str(tcp.socket.getsockname()[0])
        # Its annotation names sockets, and it reads and writes any stream: one through a proxy is TLS inside of TLS.
        any_stream: Any = stream
        websocket = await wrap_client_stream(
            nursery,
            any_stream,
            at.address,
            "/v1",
            max_message_size=MAX_SIGNALING_BYTES,
            receive_buffer_size=MAX_SIGNALING_BYTES,
        )
        return WebSocket(websocket, tcp, local)
    except BaseException:
        await trio.aclose_forcefully(tcp)
        raise


async def _way(at: SignalingAt) -> tuple[trio.abc.Stream, trio.SocketStream]:
    if at.tls and (proxy := proxy_for(at.address, os.environ)) is not None:
        return await open_way(proxy, at.address)
    tcp = await trio.open_tcp_stream(*split_address(at.address))
    return tcp, tcp


async def _secured(stream: trio.abc.Stream, at: SignalingAt, *, proven: bool) -> trio.abc.Stream:
    """TLS. Who the node is, its signature in Hello says; but who sets SSL_CERT_FILE wants to know on the way there too.

    Raises: Unproven, when that is asked for, not `proven`, and the certificate is not that of the node's own key.
    """
    context = ssl.create_default_context() if proven else node_tls()  # the former reads SSL_CERT_FILE
    secured = trio.SSLStream(stream, context, server_hostname=split_address(at.address)[0], https_compatible=True)
    await secured.do_handshake()
    if not proven and os.environ.get("SSL_CERT_FILE"):
        key = certificate_key(secured.getpeercert(binary_form=True))
        if key is None or at.key not in (b"", peer_id(key)):  # on first use its own key is taken, and shown
            raise Unproven
    return secured


def _trouble(at: SignalingAt, error: Exception) -> str:
    if isinstance(error.__cause__, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {at.address} is neither of its pinned key nor of an authority in SSL_CERT_FILE "
            f"({error.__cause__.verify_message}): put its authority there, or unset SSL_CERT_FILE"
        )
    return f"{at.address} does not speak as a signaling node: {_short(error)}"


class RelayStream(trio.abc.Stream):
    """The bytes of a conversation whose other end is a peer."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._rest = b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with memoryview(data) as view:
            for start in range(0, len(view), RELAY_MESSAGE_BYTES):
                try:
                    await self._conversation.send(bytes(view[start : start + RELAY_MESSAGE_BYTES]))
                except Broken as error:
                    raise trio.BrokenResourceError(f"relay: {error.why}") from None

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if not self._rest:
            try:
                self._rest = await self._conversation.receive()
            except Broken as error:
                raise trio.BrokenResourceError(f"relay: {error.why}") from None
        size = max_bytes or len(self._rest)
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await self._conversation.aclose()


async def redeem(conversation: Conversation, token: bytes) -> trio.abc.Stream:
    """Turn a fresh conversation into the stream a ticket promises.  Raises: Broken."""
    await conversation.send(encode(Redeem(token)))
    match decode(from_node, await conversation.receive(), MAX_SIGNALING_BYTES):
        case Spliced():
            return RelayStream(conversation)
        case Denied(why=why):
            raise Broken(None, f"relay: {why}")
    raise Broken(None, "relay: the node answered something else")


class Asked(Struct, frozen=True):
    """What a node says of itself."""

    at: SignalingAt
    rtt_seconds: float
    clock_skew_seconds: float


async def ask_signaling(where: str, clock: Callable[[], float] = time.time) -> Asked:
    """Find a node by HOST, HOST:PORT or URL and take its key on first use.

    Without a scheme TLS is tried first; plain WebSocket only on this machine.
    Raises: SignalingUnreachable, UsageError.
    """
    why = ""
    for url in _urls(where):
        try:
            return await _ask(SignalingAt(url, b""), os.urandom(16), clock)
        except PeerError as error:
            why = why or error.why
    raise SignalingUnreachable(f"no signaling node at {where}: {why}", TRY_NODE)


async def _ask(at: SignalingAt, nonce: bytes, clock: Callable[[], float]) -> Asked:
    async with trio.open_nursery() as nursery:
        found: Asked | PeerError
        try:
            conversation = await call(at, nursery)
            try:
                found = await _greeting(conversation, at, nonce, clock)
            finally:
                await conversation.aclose()
        except PeerError as error:
            found = error
        nursery.cancel_scope.cancel()
    if isinstance(found, PeerError):
        raise found
    return found


async def _greeting(conversation: Conversation, at: SignalingAt, nonce: bytes, clock: Callable[[], float]) -> Asked:
    started = trio.current_time()
    with trio.move_on_after(CONNECT_SECONDS):
        await conversation.send(encode(Knock(PROTOCOL_VERSION, nonce, at.address)))
        hello = decode(from_node, await conversation.receive(), MAX_SIGNALING_BYTES)
        rtt = trio.current_time() - started
        if not isinstance(hello, Hello):
            raise Broken(None, "it did not greet")
        key = peer_id(hello.key)
        if trouble := hello_trouble(hello, key, nonce, at.address):
            raise Broken(None, trouble)
        return Asked(SignalingAt(at.url, key), rtt, clock() - hello.time)
    raise Broken(None, "it does not answer")


def _urls(where: str) -> list[str]:
    scheme, mark, rest = where.rpartition("://")
    if mark and scheme not in ("ws", "wss"):
        raise UsageError(f"{where!r} is no signaling node", "write HOST, HOST:PORT, wss://HOST:PORT or ws://HOST:PORT")
    rest = rest.rstrip("/")
    host, port = split_address(rest, DEFAULT_PORT)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if mark:
        return [f"{scheme}://{address}"]
    return [f"wss://{address}", *([f"ws://{address}"] if is_loopback_host(host) else [])]


def node_tls() -> ssl.SSLContext:
    """Encryption only: who the node is, its signature in Hello says."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _closed(error: Exception) -> str:
    reason = getattr(getattr(error, "reason", None), "reason", None)
    return str(reason) if reason else "the signaling node closed the connection"


def _short(error: Exception) -> str:
    return str(error.__cause__ or error)[:200]
