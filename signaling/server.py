"""The node's shell: one port for WebSocket at /v1 and for /healthz; one task to a connection, one machine for all.

The head of the first request is read before anything decides what it is; what was read is put back in front of the
stream. TLS is the node's own self-signed certificate: daemons check its key by the signature in Hello, not this.
"""

from __future__ import annotations

import json
import math
import os
import ssl
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, wrap_server_stream

from discod.errors import Broken, PeerError, Refused, UserError
from discod.identity import Identity
from discod.wire.codec import MAX_SIGNALING_BYTES, decode, decoder, encode
from discod.wire.federated import Enter, Show
from discod.wire.signaling import Denied, ToNode
from signaling import limits
from signaling.depot import Depot, Visit
from signaling.limits import Gate, Limits, source
from signaling.lobby import Close, Effect, Lobby, Splice, Tell
from signaling.relay import Carrier, Outgoing

GONE = (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError)
MAX_HEAD_BYTES = 8192
TLS_HELLO = b"\x16\x03"  # somebody speaks TLS to a node without: closed at once, so that they can try plainly
CLOSE_SECONDS = 2.0
SEND_SECONDS = 30.0
said = decoder(ToNode | Show | Enter)
OK, NOT_FOUND, TOO_LARGE = "200 OK", "404 Not Found", "431 Request Header Fields Too Large"


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


class Connection:
    """One guest's WebSocket with its queue; `other` is the far end once it is spliced."""

    def __init__(self, socket: WebSocketConnection, scope: trio.CancelScope, queued_bytes: int) -> None:
        self.socket, self.scope = socket, scope
        self.outgoing = Outgoing(queued_bytes)
        self.other: int | None = None


class Opening:
    """The handshakes of a connection, which have one deadline."""

    def __init__(self, gate: Gate, address: str, patience: trio.CancelScope) -> None:
        self._gate, self._address, self._patience = gate, address, patience

    def over(self) -> None:
        """They are done, or it left before."""
        if self._address:
            self._gate.opened(self._address)
            self._address, self._patience.deadline = "", math.inf


class Server:
    """A signaling node over any trio streams."""

    def __init__(self, lobby: Lobby, depot: Depot | None = None, clock: Callable[[], float] = time.time) -> None:
        self._lobby, self._depot, self._clock = lobby, depot, clock
        self._connections: dict[int, Connection] = {}
        self._count = 0
        self._gate = Gate(lobby.limits)
        self._carrier = Carrier(lobby.limits)

    def set_limits(self, settable: Limits) -> None:
        """From now on; nobody who is here is sent away."""
        self._lobby.set_limits(settable)
        self._gate.set_limits(settable)
        self._carrier.turns.limits = settable

    @property
    def open_connections(self) -> int:
        """All, also those that are still in their handshakes."""
        return self._gate.here

    async def watch(self) -> None:
        """What time brings: the machine's `tick`, and turns of the relay. Run this beside the listeners."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._carrier.run)
            nursery.start_soon(self._tick)

    async def _tick(self) -> None:
        while True:
            wait = self._lobby.deadline - self._clock()
            await trio.sleep(min(max(wait, 0.1), limits.GREETING_SECONDS) if math.isfinite(wait) else 5.0)
            self._perform(self._lobby.tick(self._clock()))
            self._gate.forget_old(self._clock())
            self._carrier.turns.forget_old(trio.current_time())

    async def serve(self, stream: trio.abc.Stream, address: str) -> None:
        """Serve one connection to its end; never raises for what the other side does."""
        if not self._gate.enter(source(address), self._clock()):
            return await trio.aclose_forcefully(stream)
        try:
            with trio.move_on_after(self._lobby.limits.opening_seconds) as patience:
                opening = Opening(self._gate, source(address), patience)
                try:
                    await self._answer(stream, address, opening)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass
                finally:
                    opening.over()
        finally:
            self._gate.leave()
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                await trio.aclose_forcefully(stream)

    async def _answer(self, stream: trio.abc.Stream, address: str, opening: Opening) -> None:
        """Raises: BrokenResourceError or ClosedResourceError, when it left."""
        head = await _read_head(stream)
        request = head.split(b"\r\n", 1)[0].split(b" ")
        path = request[1].split(b"?")[0] if len(request) == 3 else b""
        if path == b"/v1" and b"upgrade: websocket" in head.lower():
            await self._websocket(Prefixed(head, stream), address, opening)
        elif path == b"/healthz":
            hosted = self._depot.counts() if self._depot is not None else {}
            await stream.send_all(_http(OK, {"ok": True, **self._lobby.counts(), **hosted}))
        elif head and not head.startswith(TLS_HELLO):
            status = TOO_LARGE if len(head) > MAX_HEAD_BYTES else NOT_FOUND
            await stream.send_all(_http(status, {"ok": False, "error": "speak WebSocket at /v1, or GET /healthz"}))

    async def _websocket(self, stream: trio.abc.Stream, address: str, opening: Opening) -> None:
        try:
            async with trio.open_nursery() as nursery:
                request = await wrap_server_stream(nursery, stream, max_message_size=MAX_SIGNALING_BYTES)
                websocket = await request.accept()
                opening.over()
                queued_bytes = self._lobby.limits.queued_bytes
                await self._guest(Connection(websocket, nursery.cancel_scope, queued_bytes), address)
                nursery.cancel_scope.cancel()
        except* (*GONE, HandshakeError):
            pass  # it left, or never was a WebSocket

    async def _guest(self, connection: Connection, address: str) -> None:
        self._count += 1
        guest = self._count
        self._connections[guest] = connection
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, connection, nursery.cancel_scope)
                self._perform(self._lobby.connect(guest, address, self._clock()))
                await self._read(guest, connection)
                connection.outgoing.close()
                nursery.cancel_scope.deadline = trio.current_time() + CLOSE_SECONDS
        finally:
            self._gone(guest)

    def _gone(self, guest: int) -> None:
        connection = self._connections.pop(guest)
        if connection.other is not None and (other := self._connections.get(connection.other)) is not None:
            other.outgoing.close()
            other.other = None
        self._perform(self._lobby.lost(guest))

    async def _read(self, guest: int, connection: Connection) -> None:
        """Until the guest leaves, breaks a rule, or is closed by the machine."""
        while guest in self._connections:
            try:
                data = await connection.socket.get_message()
            except GONE:
                break
            body = data.encode() if isinstance(data, str) else bytes(data)
            if connection.other is not None:
                going_on = await self._pass_on(guest, connection, connection.other, body)
            elif (refusal := self._lobby.heed(guest, self._clock())) is None:
                going_on = await self._receive(guest, connection, body)
            else:
                self._tell(guest, refusal)
                going_on = False
            if not going_on:
                break

    async def _receive(self, guest: int, connection: Connection, data: bytes) -> bool:
        try:
            message = decode(said, data, MAX_SIGNALING_BYTES)
            if isinstance(message, Show | Enter):
                await self._visit(guest, connection, message)
            else:
                self._perform(self._lobby.receive(guest, message, self._clock()))
        except PeerError as error:
            broken = isinstance(error, Broken)
            self._tell(guest, Denied("broken" if broken else "refused", error.why[:300], b""))
            return not broken
        except GONE:
            return False
        return True

    async def _visit(self, guest: int, connection: Connection, first: Show | Enter) -> None:
        """A guest at a federated buffer, until it leaves.  Raises: PeerError, or one of GONE."""
        if self._depot is None:
            raise Refused(None, "this signaling node hosts no federated buffers")
        nonce, host = self._lobby.visit(guest, self._clock())

        async def receive() -> bytes:
            data = await connection.socket.get_message()
            self._lobby.heard(guest, self._clock())
            return data.encode() if isinstance(data, str) else bytes(data)

        async def send(data: bytes) -> None:
            if not await connection.outgoing.put_relayed(data):
                raise Broken(None, "it does not read")
            self._lobby.heard(guest, self._clock())

        await Visit(self._depot, nonce, host, receive, send).run(first)

    async def _pass_on(self, guest: int, connection: Connection, other: int, data: bytes) -> bool:
        far = self._connections.get(other)
        if far is None:
            return False
        if (refusal := self._lobby.carry(guest, len(data), self._clock())) is not None:
            connection.outgoing.close(refusal.why)
            far.outgoing.close(refusal.why)
            return False
        await self._carrier.turn(*self._lobby.seat(guest), len(data))
        return await far.outgoing.put_relayed(data)

    async def _write(self, connection: Connection, scope: trio.CancelScope) -> None:
        """Ends the whole connection when the queue is closed and empty, or the guest does not read."""
        try:
            while (message := await connection.outgoing.take()) is not None:
                with trio.fail_after(SEND_SECONDS):
                    await connection.socket.send_message(message)
            with trio.move_on_after(CLOSE_SECONDS):
                await connection.socket.aclose(1008 if connection.outgoing.why else 1000, connection.outgoing.why)
        except (*GONE, trio.TooSlowError):
            pass  # it is gone, or does not read
        scope.cancel()

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Tell(guest=guest, message=message):
                    self._tell(guest, message)
                case Close(guest=guest, denied=denied):
                    self._tell(guest, denied)
                    if (connection := self._connections.get(guest)) is not None:
                        connection.outgoing.close()
                case Splice(one=one, other=other):
                    self._splice(one, other)

    def _splice(self, one: int, other: int) -> None:
        near, far = self._connections.get(one), self._connections.get(other)
        if near is None or far is None:
            return  # an end left in this moment; the other one's reader will see it closed
        near.other, far.other = other, one

    def _tell(self, guest: int, message: object) -> None:
        connection = self._connections.get(guest)
        if connection is not None and not connection.outgoing.put(encode(message)):  # type: ignore[arg-type]
            connection.scope.cancel()  # it does not read


async def _read_head(stream: trio.abc.Stream) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head and len(head) <= MAX_HEAD_BYTES and not head.startswith(TLS_HELLO):
        data = await stream.receive_some(MAX_HEAD_BYTES)
        if not data:
            return b""
        head += data
    return head


def _http(status: str, body: dict[str, object]) -> bytes:
    data = json.dumps(body).encode() + b"\n"
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\nConnection: close\r\n"
    )
    return head.encode() + b"\r\n" + data


def node_key(directory: Path) -> Identity:
    """The node's key in its state directory, made at the first start (0600).  Raises: UserError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / "signaling.key"
    return Identity.load(path) if path.exists() else Identity.create(path)


def node_context(identity: Identity, directory: Path) -> ssl.SSLContext:
    """TLS with the node's own certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with identity.pair_file(directory) as path:
        context.load_cert_chain(path)
    return context


async def open_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Raises: UserError when the address is taken or not ours."""
    try:
        return await trio.open_tcp_listeners(port, host=host or None)
    except OSError as error:
        raise _cannot_listen(host, port, error) from None


def _cannot_listen(host: str, port: int, error: OSError) -> UserError:
    where = f"{host or '*'}:{port}"
    if error.errno in (98, 48) or (isinstance(error, PermissionError) and port >= 1024):
        hint = "stop what uses it, or choose another: discod signaling serve --listen :0 takes a free one"
        return UserError(f"{where} is in use by another program", hint, code="port-taken")
    why = os.strerror(error.errno) if isinstance(error.errno, int) and error.errno > 0 else str(error)
    return UserError(f"cannot listen on {where}: {why}", "give an address of this machine", code="cannot-listen")


async def run_node(
    lobby: Lobby,
    listeners: list[trio.SocketListener],
    context: ssl.SSLContext | None,
    depot: Depot | None = None,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled."""
    server = Server(lobby, depot)

    async def accept(stream: trio.SocketStream) -> None:
        try:
            address = str(stream.socket.getpeername()[0])
        except OSError:
            return await trio.aclose_forcefully(stream)  # it has left already
        wrapped: trio.abc.Stream = stream
        if context is not None:
            wrapped = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        return await server.serve(wrapped, address)

    handler: Callable[[trio.SocketStream], Awaitable[None]] = accept
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.watch)
        if depot is not None:
            nursery.start_soon(depot.watch)
        nursery.start_soon(partial(trio.serve_listeners, handler, listeners))
        task_status.started()
