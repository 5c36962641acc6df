"""Who is in which room, and what they may ask: the node's whole state, as a machine without a socket or a clock.

    connect -> (Knock -> Hello) -> Find* -> Join -> Room, Present...   present: Publish, Signal, Relay, Beat
    connect -> Redeem -> Spliced once the other end has redeemed too   (then raw bytes, which never come here)

A room is a mesh id. To enter one shows a membership under an invite of that mesh's root, and proves its key on the
node's nonce; whether anybody admitted it is the members' business. Nothing is kept but presence, published invites
(so that newcomers find them) and counters. Guests are whatever the shell numbers its connections by; `now` is Unix
seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from discod.errors import Broken, Refused
from discod.identity import (
    Identity,
    Invite,
    MeshInfo,
    Record,
    Revocation,
    parse_record,
    peer_id,
    verify,
)
from discod.wire.codec import PROTOCOL_VERSION
from discod.wire.signaling import (
    HELLO_LABEL,
    JOIN_LABEL,
    Beat,
    Denied,
    Find,
    Found,
    FromNode,
    Hello,
    Join,
    Knock,
    Left,
    Present,
    Publish,
    Redeem,
    Relay,
    Room,
    Signal,
    Signaled,
    Spliced,
    Ticket,
    ToNode,
    hello_statement,
    join_statement,
)
from signaling import limits
from signaling.limits import Limits, source
from signaling.seats import Seats
from signaling.shown import check_membership, concerns


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a message to a guest."""

    guest: int
    message: FromNode


@dataclass(frozen=True, slots=True)
class Close:
    """End a guest's connection, after telling it why."""

    guest: int
    denied: Denied


@dataclass(frozen=True, slots=True)
class Splice:
    """Pass the bytes of these two guests to each other from now on."""

    one: int
    other: int


Effect = Tell | Close | Splice
TOO_MANY_MESSAGES = Denied("too-many-messages", "too many messages at once from this connection or address", b"")


@dataclass(slots=True)
class _Guest:
    address: str
    heard: float
    nonce: bytes = b""  # ours; empty before Knock
    host: str = ""
    mesh: bytes = b""  # of the room; empty before Join
    peer: bytes = b""
    records: tuple[bytes, ...] = ()
    spliced: bool = False


@dataclass(slots=True)
class _Meeting:
    """A room: guests by PeerId, and the published records by hash."""

    guests: dict[bytes, int] = field(default_factory=dict)
    published: dict[bytes, Record] = field(default_factory=dict)


class Lobby:
    """The node. `fresh` gives 16 random bytes; `relay` says whether it splices."""

    def __init__(
        self,
        identity: Identity,
        fresh: Callable[[], bytes],
        *,
        relay: bool = True,
        settable: Limits = limits.DEFAULTS,
    ) -> None:
        self.limits = settable
        self._identity, self._fresh, self._relay = identity, fresh, relay
        self._guests: dict[int, _Guest] = {}
        self._from: Counter[str] = Counter()  # guests by source address
        self._rooms: dict[bytes, _Meeting] = {}
        self._invites: dict[bytes, bytes] = {}  # invite key -> mesh
        self._seats = Seats(fresh, settable)
        self._joins = limits.PerMinute(settable.joins_per_minute)
        self._messages = limits.PerSecond(settable.messages_per_second, limits.CONNECTION_SLACK_SECONDS)  # by guest
        self._all_messages = limits.PerSecond(
            settable.address_messages_per_second, limits.ADDRESS_SLACK_SECONDS
        )  # by source address

    def set_limits(self, settable: Limits) -> None:
        """From now on; nobody who is here is sent away."""
        self.limits, self._joins.limit = settable, settable.joins_per_minute
        self._messages.rate, self._all_messages.rate = (
            settable.messages_per_second,
            settable.address_messages_per_second,
        )
        self._seats.set_limits(settable)

    @property
    def deadline(self) -> float:
        """When `tick` must be called: the first guest that was silent for too long; inf when none."""
        return min((self._expiry(guest) for guest in self._guests.values()), default=float("inf"))

    def counts(self) -> dict[str, int]:
        """For /healthz: connections, rooms with somebody in them, peers."""
        rooms = [room for room in self._rooms.values() if room.guests]
        return {"connections": len(self._guests), "rooms": len(rooms), "peers": sum(len(r.guests) for r in rooms)}

    def connect(self, guest: int, address: str, now: float) -> list[Effect]:
        """Somebody connected from `address` (a host, without port)."""
        assert guest not in self._guests, "guests are numbered once"
        most = self.limits.connections_per_address
        if self._from[source(address)] >= most:
            why = f"this node takes {most} connections from one address: close some, or try later"
            return [Close(guest, Denied("too-many-connections", why, b""))]
        self._guests[guest] = _Guest(address, now)
        self._from[source(address)] += 1
        return []

    def heed(self, guest: int, message: ToNode, now: float) -> float | Denied:
        """Count a message before it costs anything: the seconds it has to wait, or a refusal."""
        if (known := self._guests.get(guest)) is None:
            return 0.0
        units = 1 + (len(message.records) if isinstance(message, Join | Publish) else 0)
        waits = (
            self._messages.wait(guest, units, now),
            self._all_messages.wait(source(known.address), units, now),
        )
        return TOO_MANY_MESSAGES if None in waits else max(filter(None, waits), default=0.0)

    def receive(self, guest: int, message: ToNode, now: float) -> list[Effect]:
        """Raises: Refused or Broken; nothing has changed then."""
        if (known := self._guests.get(guest)) is None:
            return []  # it is being closed
        effects = self._answer(guest, known, message, now)
        known.heard = now
        return effects

    def lost(self, guest: int) -> list[Effect]:
        """The connection is gone. A spliced one takes its other end along in the shell."""
        known = self._forget(guest)
        if known is None or not known.mesh:
            return []
        room = self._rooms[known.mesh]
        if room.guests.get(known.peer) != guest:
            return []
        del room.guests[known.peer]
        return [Tell(each, Left(known.peer)) for each in room.guests.values()]

    def _forget(self, guest: int) -> _Guest | None:
        known = self._guests.pop(guest, None)
        self._seats.lost(guest)
        if known is not None:
            address = source(known.address)
            self._from[address] -= 1
            if not self._from[address]:
                del self._from[address]
        return known

    def tick(self, now: float) -> list[Effect]:
        """Close who was silent for too long; forget old tickets and counters."""
        for counts in (self._seats, self._joins, self._messages, self._all_messages):
            counts.forget_old(now)
        silent = [each for each, known in self._guests.items() if self._expiry(known) <= now]
        effects: list[Effect] = []
        for guest in silent:
            effects += [*self.lost(guest), Close(guest, Denied("silent", "nothing was heard for too long", b""))]
        return [each for each in effects if not (isinstance(each, Tell) and each.guest in silent)]

    def visit(self, guest: int, now: float) -> tuple[bytes, str]:
        """A guest that was greeted turns to a federated buffer: our nonce and the host it dialled.  Raises: Refused."""
        known = self._guests.get(guest)
        if known is None or not known.host or known.mesh:
            raise Refused(None, "a visit begins after Hello, on a connection of its own")
        if not self._joins.take(source(known.address), 1, now):
            raise Refused(None, self._too_many_joins.why)
        return known.nonce, known.host

    def heard(self, guest: int, now: float) -> None:
        """Something came from a guest that the shell attends to."""
        if (known := self._guests.get(guest)) is not None:
            known.heard = now

    def published(self, mesh: bytes) -> dict[bytes, bytes]:
        """The records that members of a mesh published, by hash."""
        room = self._rooms.get(mesh)
        return {hash_: record.data for hash_, record in room.published.items()} if room is not None else {}

    def carry(self, guest: int, count: int, now: float) -> Denied | None:
        """Count relayed bytes of a spliced guest; a refusal when its peer has used up its minute."""
        known = self._guests.get(guest)
        if known is None:
            return Denied("closed", "this connection is closed", b"")
        known.heard = now
        return self._seats.carry(guest, count, now)

    def seat(self, guest: int) -> tuple[bytes, bytes]:
        """The pair and the peer of a spliced guest."""
        seat = self._seats.taken[guest]
        return seat.pair, seat.peer

    def _answer(self, guest: int, known: _Guest, message: ToNode, now: float) -> list[Effect]:
        if known.spliced or (known.nonce == b"") != isinstance(message, Knock | Redeem):
            raise Broken(known.peer or None, "a message out of turn")
        match message:
            case Knock():
                return self._knock(guest, known, message, now)
            case Redeem():
                return self._redeem(guest, known, message, now)
            case Beat():
                return [Tell(guest, message)]
            case Find(invite=invite):
                return [Tell(guest, Found(invite, self._find(invite)))]
            case Join():
                return self._join(guest, known, message, now)
        if not known.mesh:
            raise Refused(None, "join a mesh first")
        match message:
            case Publish(records=records):
                return self._publish(known, records)
            case Signal(to=to, body=body):
                return self._pass(guest, known, to, Signaled(known.peer, body))
            case Relay(to=to):
                return self._ticket(guest, known, to, now)

    def _knock(self, guest: int, known: _Guest, knock: Knock, now: float) -> list[Effect]:
        if knock.protocol != PROTOCOL_VERSION:
            why = f"protocol version {knock.protocol}, this node speaks {PROTOCOL_VERSION}"
            return [*self.lost(guest), Close(guest, Denied("protocol-version", why, b""))]
        known.nonce, known.host = self._fresh(), knock.host
        signature = self._identity.sign(HELLO_LABEL, hello_statement(knock.nonce, knock.host))
        key = self._identity.public
        return [Tell(guest, Hello(PROTOCOL_VERSION, key, known.nonce, int(now), known.address, signature))]

    def _find(self, invite: bytes) -> tuple[bytes, ...]:
        mesh = self._invites.get(invite)
        return tuple(r.data for r in self._rooms[mesh].published.values() if concerns(r, invite)) if mesh else ()

    def _join(self, guest: int, known: _Guest, join: Join, now: float) -> list[Effect]:
        if not self._joins.take(source(known.address), 1, now):
            return [Tell(guest, self._too_many_joins)]
        statement = join_statement(known.nonce, known.host, join.mesh, join.time)
        if not verify(join.key, JOIN_LABEL, statement, join.signature):
            raise Broken(None, "a Join with a bad signature")
        peer = peer_id(join.key)
        if known.mesh not in (b"", join.mesh) or known.peer not in (b"", peer):
            raise Refused(peer, "one mesh and one peer to a connection")
        check_membership(join)
        room = self._rooms.get(join.mesh)
        if room is not None and len(room.guests) >= limits.MAX_PEERS and peer not in room.guests:
            return [Tell(guest, Denied("room-full", f"more than {limits.MAX_PEERS} peers are here already", b""))]
        return self._enter(guest, known, join, peer)

    def _enter(self, guest: int, known: _Guest, join: Join, peer: bytes) -> list[Effect]:
        room = self._room(join.mesh)
        effects: list[Effect] = []
        first = not known.mesh
        if (former := room.guests.get(peer)) not in (None, guest):
            assert former is not None
            self._forget(former)
            effects.append(Close(former, Denied("replaced", "the same peer joined on another connection", b"")))
        known.mesh, known.peer, known.records = join.mesh, peer, join.records
        room.guests[peer] = guest
        others = {each: number for each, number in room.guests.items() if each != peer}
        if first:
            effects.append(Tell(guest, Room(join.mesh, len(others), self._relay)))
            effects += [Tell(guest, Present(each, self._guests[number].records)) for each, number in others.items()]
        present = Present(peer, join.records)
        return effects + [Tell(number, present) for number in others.values()]

    def _room(self, mesh: bytes) -> _Meeting:
        """The room, made if need be; of the empty ones the oldest makes way."""
        if mesh not in self._rooms and len(self._rooms) >= limits.MAX_ROOMS:
            oldest = next((each for each, room in self._rooms.items() if not room.guests), None)
            if oldest is None:
                raise Refused(None, "this node has no room for another mesh")
            del self._rooms[oldest]
            self._invites = {key: each for key, each in self._invites.items() if each != oldest}
        return self._rooms.setdefault(mesh, _Meeting())

    def _publish(self, known: _Guest, records: tuple[bytes, ...]) -> list[Effect]:
        parsed = [parse_record(data) for data in records]
        for record in parsed:
            if record.mesh != known.mesh or not isinstance(record.body, MeshInfo | Invite | Revocation):
                raise Refused(known.peer, "only the invites of this mesh are published here")
        room = self._rooms[known.mesh]
        if len(room.published.keys() | {record.hash for record in parsed}) > limits.MAX_PUBLISHED:
            raise Refused(known.peer, f"more than {limits.MAX_PUBLISHED} published records")
        for record in parsed:
            room.published[record.hash] = record
            if isinstance(record.body, Invite):
                self._invites[record.body.key] = known.mesh
        return []

    def _pass(self, guest: int, known: _Guest, to: bytes, message: FromNode) -> list[Effect]:
        other = self._rooms[known.mesh].guests.get(to)
        if other is None or other == guest:
            return [Tell(guest, _not_here(to))]
        return [Tell(other, message)]

    def _ticket(self, guest: int, known: _Guest, to: bytes, now: float) -> list[Effect]:
        if not self._relay:
            return [Tell(guest, Denied("no-relay", "this signaling node does not relay", to))]
        other = self._rooms[known.mesh].guests.get(to)
        if other is None or other == guest:
            return [Tell(guest, _not_here(to))]
        if (refusal := self._seats.refusal(known.peer, to, now)) is not None:
            return [Tell(guest, refusal)]
        mine, theirs = self._seats.reserve(known.peer, to, now)
        return [Tell(other, Ticket(known.peer, theirs, False)), Tell(guest, Ticket(to, mine, True))]

    def _redeem(self, guest: int, known: _Guest, redeem: Redeem, now: float) -> list[Effect]:
        if (seat := self._seats.redeem(redeem.token, guest, now)) is None:
            return [*self.lost(guest), Close(guest, Denied("bad-ticket", "this ticket is unknown or too old", b""))]
        known.nonce, known.peer = redeem.token, seat.peer
        if (other := self._seats.meet(seat, guest)) is None:
            return []
        known.spliced = self._guests[other].spliced = True
        return [Tell(other, Spliced()), Tell(guest, Spliced()), Splice(other, guest)]

    @property
    def _too_many_joins(self) -> Denied:
        most = self.limits.joins_per_minute
        return Denied("too-many-joins", f"this node takes {most} joins a minute from one address: try later", b"")

    def _expiry(self, known: _Guest) -> float:
        return known.heard + (limits.SILENT_SECONDS if known.nonce else limits.GREETING_SECONDS)


def _not_here(peer: bytes) -> Denied:
    return Denied("not-here", "that peer is not here", peer)
