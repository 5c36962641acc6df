"""The node's shell: one port for WebSocket at /v1, /healthz and /metrics; a task to a connection, one machine for all.

The head of the first request is read before anything decides what it is; what was read is put back in front of the
stream. The log tells of addresses at level debug only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import structlog
import trio
from trio_websocket import ConnectionClosed, HandshakeError, wrap_server_stream

from discod.errors import Broken, PeerError, Refused
from discod.identity import peer_id
from discod.wire.codec import MAX_SIGNALING_BYTES, decode, decoder, encode
from discod.wire.federated import Enter, Show
from discod.wire.signaling import Denied, Join, ToNode
from signaling import limits
from signaling.connection import TLS_HELLO, Connection, GoingAway, Opening, Prefixed, read_head
from signaling.depot import Depot, Visit
from signaling.heads import (
    MAX_HEAD_BYTES,
    NOT_FOUND,
    OK,
    PROMETHEUS,
    TOO_LARGE,
    Head,
    answer,
    answer_json,
    parse_head,
)
from signaling.limits import Gate, Limits, source
from signaling.lobby import Close, Effect, Lobby, Splice, Tell
from signaling.relay import Carrier
from signaling.tally import Tally, exposition

GONE = (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError)
CLOSE_SECONDS = 2.0
SEND_SECONDS = 30.0
QUIET_SECONDS = 2.0  # a relay without a byte for so long has nothing under way
GOING_AWAY = Denied("going-away", "this node is going down: call another one, or this one later", b"")
said = decoder(ToNode | Show | Enter)
log = structlog.get_logger()


class Server:
    """A signaling node over any trio streams."""

    def __init__(self, lobby: Lobby, depot: Depot | None = None, clock: Callable[[], float] = time.time) -> None:
        self._lobby, self._depot, self._clock = lobby, depot, clock
        self._connections: dict[int, Connection] = {}
        self._count = 0
        self._gate = Gate(lobby.limits)
        self._carrier = Carrier(lobby.limits)
        self._left = trio.Event()
        self.draining = False
        self.tally = Tally()

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

    async def drain(self, seconds: float) -> int:
        """Send everybody away, who has something under way after that; how many were cut at the deadline."""
        self.draining = True
        if self._depot is not None:
            self._depot.go_away()
        for guest, connection in list(self._connections.items()):
            self._send_away(guest, connection)
        with trio.move_on_after(seconds):
            while self._connections:
                self._end_quiet_relays()
                with trio.move_on_after(QUIET_SECONDS / 4):
                    await self._left.wait()
        cut = list(self._connections.values())
        for connection in cut:
            connection.scope.cancel()
        return len(cut)

    def _send_away(self, guest: int, connection: Connection) -> None:
        if connection.visit is not None:
            if not connection.visit.busy:
                connection.waiting.cancel()
        elif connection.other is None:
            self._tell(guest, GOING_AWAY)
            connection.outgoing.close()

    def _end_quiet_relays(self) -> None:
        then = trio.current_time() - QUIET_SECONDS
        for connection in self._connections.values():
            far = self._connections.get(connection.other) if connection.other is not None else None
            ends = [connection] if far is None else [connection, far]
            if connection.other is not None and all(end.moved <= then and end.outgoing.is_empty for end in ends):
                connection.outgoing.close(GOING_AWAY.why)

    def metrics(self) -> str:
        """What /metrics answers."""
        lobby, gate, relayed = self._lobby.counts(), self._gate, [c for c in self._connections.values() if c.other]
        gauges = {
            "sessions": len(self._connections),
            "connections": gate.here,
            "rooms": lobby["rooms"],
            "peers": lobby["peers"],
            "relays": len(relayed) // 2,
            "draining": int(self.draining),
        }
        depot = self._depot
        if depot is None:
            return exposition(self.tally.families(gauges, {"turned_away": gate.turned_away}, {}))
        hosted = depot.counts()
        gauges |= {"buffers": hosted["buffers"], "buffer_visitors": hosted["visitors"]}
        gauges["buffer_waiting_updates"] = hosted["waiting_updates"]
        totals = {"turned_away": gate.turned_away, "buffer_versions": depot.versions}
        pushes = {"kept": depot.kept, **depot.refused}
        return exposition(self.tally.families(gauges, totals, pushes, depot.denied))

    async def serve(self, stream: trio.abc.Stream, address: str, *, is_proxy: bool = False) -> None:
        """Serve one connection to its end; never raises for what the other side does.

        What comes from a proxy counts for the address that the proxy says it is from.
        """
        try:
            if is_proxy:
                stream, address = await self._behind_proxy(stream, address)
            if self._gate.enter(source(address), self._clock()):
                try:
                    await self._open(stream, address)
                finally:
                    self._gate.leave()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it left
        finally:
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                await trio.aclose_forcefully(stream)

    async def _behind_proxy(self, stream: trio.abc.Stream, address: str) -> tuple[trio.abc.Stream, str]:
        head = b""
        with trio.move_on_after(self._lobby.limits.opening_seconds):
            head = await read_head(stream)
        return Prefixed(head, stream), parse_head(head).forwarded or address

    async def _open(self, stream: trio.abc.Stream, address: str) -> None:
        log.debug("guest.connected", address=address)
        with trio.move_on_after(self._lobby.limits.opening_seconds) as patience:
            opening = Opening(self._gate, source(address), patience)
            try:
                await self._answer(stream, address, opening)
            finally:
                opening.over()

    async def _answer(self, stream: trio.abc.Stream, address: str, opening: Opening) -> None:
        """Raises: BrokenResourceError or ClosedResourceError, when it left."""
        started = trio.current_time()
        head = await read_head(stream)
        match parse_head(head):
            case Head(path=b"/v1", websocket=True):
                await self._websocket(Prefixed(head, stream), address, opening, started)
            case Head(path=b"/healthz"):
                hosted = self._depot.counts() if self._depot is not None else {}
                await stream.send_all(answer_json(OK, {"ok": True, **self._lobby.counts(), **hosted}))
            case Head(path=b"/metrics"):
                await stream.send_all(answer(OK, self.metrics(), PROMETHEUS))
            case _ if head and not head.startswith(TLS_HELLO):
                status = TOO_LARGE if len(head) > MAX_HEAD_BYTES else NOT_FOUND
                why = "speak WebSocket at /v1, or GET /healthz or /metrics"
                await stream.send_all(answer_json(status, {"ok": False, "error": why}))

    async def _websocket(self, stream: trio.abc.Stream, address: str, opening: Opening, started: float) -> None:
        try:
            async with trio.open_nursery() as nursery:
                request = await wrap_server_stream(
                    nursery, stream, max_message_size=MAX_SIGNALING_BYTES, receive_buffer_size=MAX_SIGNALING_BYTES
                )
                websocket = await request.accept()
                opening.over()
                self.tally.handshake(trio.current_time() - started)
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
                if self.draining:
                    self._send_away(guest, connection)
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
        effects = self._lobby.lost(guest)
        if not self.draining:  # else everybody leaves
            self._perform(effects)
        if connection.peer:
            log.info("peer.left", peer=connection.peer)
        self._left.set()
        self._left = trio.Event()

    async def _read(self, guest: int, connection: Connection) -> None:
        """Until the guest leaves, breaks a rule, or is closed by the machine."""
        while guest in self._connections and not (self.draining and connection.other is None):
            try:
                data = await connection.socket.get_message()
            except GONE:
                break
            body = data.encode() if isinstance(data, str) else bytes(data)
            if connection.other is not None:
                going_on = await self._pass_on(guest, connection, connection.other, body)
            else:
                going_on = await self._receive(guest, connection, body)
            if not going_on:
                break

    async def _receive(self, guest: int, connection: Connection, data: bytes) -> bool:
        try:
            message = decode(said, data, MAX_SIGNALING_BYTES)
            if isinstance(message, Show | Enter):
                await self._visit(guest, connection, message)
            elif isinstance(wait := self._lobby.heed(guest, message, self._clock()), Denied):
                self._tell(guest, wait)
                return False
            else:
                await trio.sleep(wait)
                self._take(guest, connection, message)
        except GoingAway:
            self._tell(guest, GOING_AWAY)
            return False
        except PeerError as error:
            broken = isinstance(error, Broken)
            self._tell(guest, Denied("broken" if broken else "refused", error.why[:300], b""))
            return not broken
        except GONE:
            return False
        return True

    def _take(self, guest: int, connection: Connection, message: ToNode) -> None:
        """Raises: PeerError."""
        if isinstance(message, Join):
            self._join(guest, connection, message)
        else:
            self._perform(self._lobby.receive(guest, message, self._clock()))

    def _join(self, guest: int, connection: Connection, join: Join) -> None:
        """Raises: PeerError."""
        try:
            effects = self._lobby.receive(guest, join, self._clock())
        except PeerError as error:
            self.tally.joins["broken" if isinstance(error, Broken) else "refused"] += 1
            raise
        if self.tally.join(guest, effects):
            connection.peer = peer_id(join.key).hex()[:8]
            log.info("peer.joined", peer=connection.peer, mesh=join.mesh.hex()[:8])
        self._perform(effects)

    async def _visit(self, guest: int, connection: Connection, first: Show | Enter) -> None:
        """A guest at a federated buffer, until it leaves.  Raises: PeerError, or one of GONE."""
        if self._depot is None:
            raise Refused(None, "this signaling node hosts no federated buffers")
        nonce, host = self._lobby.visit(guest, self._clock())

        async def receive() -> bytes:
            with trio.CancelScope() as connection.waiting:
                if self.draining and not visit.busy:
                    connection.waiting.cancel()
                data = await connection.socket.get_message()
            if connection.waiting.cancelled_caught:
                raise GoingAway(None, GOING_AWAY.why)
            self._lobby.heard(guest, self._clock())
            return data.encode() if isinstance(data, str) else bytes(data)

        async def send(data: bytes) -> None:
            if not await connection.outgoing.put_relayed(data):
                raise Broken(None, "it does not read")
            self._lobby.heard(guest, self._clock())

        connection.visit = visit = Visit(self._depot, nonce, host, receive, send)
        await visit.run(first)

    async def _pass_on(self, guest: int, connection: Connection, other: int, data: bytes) -> bool:
        far = self._connections.get(other)
        if far is None:
            return False
        connection.moved = trio.current_time()
        if (refusal := self._lobby.carry(guest, len(data), self._clock())) is not None:
            self.tally.refusals[refusal.code] += 1
            connection.outgoing.close(refusal.why)
            far.outgoing.close(refusal.why)
            return False
        await self._carrier.turn(*self._lobby.seat(guest), len(data))
        self.tally.relayed_bytes += len(data)
        return await far.outgoing.put_relayed(data)

    async def _write(self, connection: Connection, scope: trio.CancelScope) -> None:
        """Ends the whole connection when the queue is closed and empty, or the guest does not read."""
        try:
            while (message := await connection.outgoing.take()) is not None:
                with trio.fail_after(SEND_SECONDS):
                    await connection.socket.send_message(message)
            with trio.move_on_after(CLOSE_SECONDS):
                code = 1001 if self.draining else 1008 if connection.outgoing.why else 1000
                await connection.socket.aclose(code, connection.outgoing.why)
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
        if isinstance(message, Denied):
            self.tally.refusals[message.code] += 1
            log.debug("guest.refused", code=message.code, why=message.why)
        connection = self._connections.get(guest)
        if connection is not None and not connection.outgoing.put(encode(message)):  # type: ignore[arg-type]
            self.tally.queue_drops += 1
            connection.scope.cancel()  # it does not read
