"""A member's conversation with the signaling node, as a machine: who is here, who may come in, where to dial.

    -> Knock    <- Hello        (the node's key must be the pinned one; its signature covers our nonce and host)
    -> Join     <- Room         (our own records; again whenever they change)
    -> Publish                  (the invites of the mesh)
    <- Present, Left            (Learn what they say of themselves if somebody has admitted them; Came, Gone)
    <- Signaled Petition        (a newcomer: admit it, or say why not)  -> Signal Admitted... | Declined
    <- Ticket                   (a relay was asked for, by us or by them: OpenRelay)

`now` is Unix seconds. The member set belongs to the caller: this machine reads it and asks by Learn to have it grow;
after Learn, and whenever it grew otherwise, the caller calls `changed`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from discod.errors import Broken, Refused
from discod.identity import (
    Addresses,
    Admit,
    Identity,
    Invite,
    Members,
    Membership,
    MeshInfo,
    Record,
    Revocation,
    TaskOffer,
    make_admit,
    parse_record,
    peer_id,
    verify,
)
from discod.wire.codec import PROTOCOL_VERSION, decode, encode
from discod.wire.signaling import (
    HELLO_LABEL,
    JOIN_LABEL,
    MAX_SIGNAL_BYTES,
    Admitted,
    Beat,
    Declined,
    Denied,
    FromNode,
    Hello,
    Join,
    Knock,
    Left,
    Petition,
    Present,
    Publish,
    Room,
    Signal,
    Signaled,
    Ticket,
    ToNode,
    hello_statement,
    join_statement,
    whisper,
)

ANSWER_SECONDS = 10.0  # for Hello and Room
BEAT_SECONDS = 20.0  # the node closes after 60 s of silence
SILENCE_SECONDS = 30.0  # of a node that answers every beat: two beats without an answer
PART_BYTES = MAX_SIGNAL_BYTES - 1024  # records in one Admitted


class State(Enum):
    """Where the conversation stands."""

    KNOCKING = "knocking"
    JOINING = "joining"
    PRESENT = "present"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a message to the node."""

    message: ToNode


@dataclass(frozen=True, slots=True)
class Learn:
    """Add these records to the member set of this mesh and gossip what is new."""

    records: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Entered:
    """The node lists us; `relay`: it relays; `seen`: the host that our connection comes from."""

    relay: bool
    seen: str


@dataclass(frozen=True, slots=True)
class Came:
    """A peer is present, or says something new: it may be dialled."""

    peer: bytes


@dataclass(frozen=True, slots=True)
class Gone:
    """A peer is no longer present at the node; its links are not touched by that."""

    peer: bytes


@dataclass(frozen=True, slots=True)
class OpenRelay:
    """Redeem this ticket on a new connection; `dial`: we are the TLS client."""

    peer: bytes
    token: bytes
    dial: bool


@dataclass(frozen=True, slots=True)
class NoRelay:
    """The node does not relay to this peer now."""

    peer: bytes
    why: str


@dataclass(frozen=True, slots=True)
class Ended:
    """Hang up. `final`: calling again makes no sense before somebody changes something."""

    why: str
    final: bool = False


Effect = Tell | Learn | Entered | Came | Gone | OpenRelay | NoRelay | Ended


class Rendezvous:
    """One connection of a member of `members`; `host` as dialled, `node` the (32,) id of its key, `nonce` 16 bytes."""

    def __init__(self, identity: Identity, members: Members, host: str, node: bytes, nonce: bytes) -> None:
        self.state = State.KNOCKING
        self.deadline = math.inf
        self.present: set[bytes] = set()
        self.rtt_seconds: float | None = None
        self._identity, self._members = identity, members
        self._host, self._node, self._nonce = host, node, nonce
        self._theirs = b""
        self._seen = ""
        self._said: tuple[bytes, ...] = ()
        self._published: frozenset[bytes] = frozenset()
        self._beats: tuple[int, float] = (0, 0.0)
        self._started = self._heard = 0.0

    def start(self, now: float) -> list[Effect]:
        """Knock."""
        self.deadline, self._started = now + ANSWER_SECONDS, now
        return [Tell(Knock(PROTOCOL_VERSION, self._nonce, self._host))]

    def receive(self, message: FromNode, now: float) -> list[Effect]:
        """Raises: Refused or Broken; nothing has changed then."""
        if self.state is State.ENDED:
            return []
        effects = self._take(message, now)
        self._heard = now
        return effects

    def _take(self, message: FromNode, now: float) -> list[Effect]:
        match message:
            case Hello():
                return self._hello(message, now)
            case Room():
                return self._room(message, now)
            case Denied():
                return self._denied(message)
            case Beat(n=n):
                if n == self._beats[0]:
                    self.rtt_seconds = now - self._beats[1]
                return []
        if self.state is not State.PRESENT:
            raise Broken(None, "the node spoke out of turn")
        match message:
            case Present(peer=peer, records=records):
                return self._came(peer, records)
            case Left(peer=peer):
                self.present.discard(peer)
                return [Gone(peer)]
            case Signaled(sender=sender, body=body):
                return self._whispered(sender, body, now)
            case Ticket(peer=peer, token=token, dial=dial):
                return [OpenRelay(peer, token, dial)] if self._members.is_member(peer) else []
        raise Broken(None, "the node answered what was not asked")

    def tick(self, now: float) -> list[Effect]:
        """Call at `deadline`: a beat when present; the end of patience before, and with a node that fell silent."""
        if now < self.deadline or self.state is State.ENDED:
            return []
        if self.state is not State.PRESENT or now - self._heard > SILENCE_SECONDS:
            return self._end("the signaling node does not answer")
        return self._beat(now)

    def changed(self, now: float) -> list[Effect]:
        """The member set, or our addresses in it, may have changed: tell the node what it does not know."""
        if self.state is not State.PRESENT:
            return []
        return [*self._join(now), *self._publish()]

    def lost(self) -> list[Effect]:
        """The connection is gone."""
        return self._end("the connection to the signaling node was lost")

    def _hello(self, hello: Hello, now: float) -> list[Effect]:
        if self.state is not State.KNOCKING:
            raise Broken(None, "a second Hello")
        if trouble := hello_trouble(hello, self._node, self._nonce, self._host):
            return self._end(trouble, final=True)
        self.state, self.deadline = State.JOINING, min(self.deadline, now + ANSWER_SECONDS)
        self._theirs, self._seen = hello.nonce, hello.seen
        self.rtt_seconds = now - self._started
        return self._join(now)

    def _join(self, now: float) -> list[Effect]:
        own = own_records(self._members, self._identity.public)
        if own == self._said:
            return []
        self._said = own
        return [Tell(make_join(self._identity, self._theirs, self._host, self._members.mesh_id, own, now))]

    def _room(self, room: Room, now: float) -> list[Effect]:
        if self.state is not State.JOINING or room.mesh != self._members.mesh_id:
            raise Broken(None, "a Room that was not asked for")
        self.state = State.PRESENT
        return [Entered(room.relay, self._seen), *self._publish(), *self._beat(now)]

    def _publish(self) -> list[Effect]:
        records = {record.hash: record for record in map(parse_record, _published(self._members))}
        new = [record.data for record in records.values() if record.hash not in self._published]
        self._published = frozenset(records)
        return [Tell(Publish(part)) for part in in_parts(new, PART_BYTES)]

    def _beat(self, now: float) -> list[Effect]:
        self._beats = (self._beats[0] + 1, now)
        self.deadline = now + BEAT_SECONDS
        return [Tell(Beat(self._beats[0]))]

    def _came(self, peer: bytes, records: tuple[bytes, ...]) -> list[Effect]:
        if not is_admitted(records):
            return []  # a newcomer, who will come again when it is a member
        self.present.add(peer)
        return [Learn(records), Came(peer)]

    def _denied(self, denied: Denied) -> list[Effect]:
        if denied.about:
            return [NoRelay(denied.about, denied.why)]
        if self.state is State.PRESENT and denied.code == "refused":
            return []
        return self._end(f"the signaling node says: {denied.why}")

    def _whispered(self, sender: bytes, body: bytes, now: float) -> list[Effect]:
        message = decode(whisper, body, MAX_SIGNAL_BYTES)
        if not isinstance(message, Petition):
            raise Refused(sender, "only newcomers are told this")
        record = parse_record(message.membership)
        if not isinstance(record.body, Membership) or peer_id(record.body.peer) != sender:
            raise Refused(sender, "a petition for somebody else")
        return self._admit(sender, record, now)

    def _admit(self, sender: bytes, record: Record, now: float) -> list[Effect]:
        assert isinstance(record.body, Membership)
        if self._members.is_member(sender):
            return _tell_all(sender, self._members.records())
        why = self._members.admissible(record, now)
        if why is None and not self._members.may_admit(self._identity.public, record):
            why = "this member may not admit anybody"
        if why is not None:
            free = tuple(self._members.free_slots(record.body.invite)[:8]) if why.startswith("slot") else ()
            return [Tell(Signal(sender, encode(Declined(why, free))))]
        new = (record.data, make_admit(self._identity, record, int(now)))
        return [Learn(new), *_tell_all(sender, [*self._members.records(), *new])]

    def _end(self, why: str, *, final: bool = False) -> list[Effect]:
        if self.state is State.ENDED:
            return []
        self.state, self.deadline = State.ENDED, math.inf
        self.present.clear()
        return [Ended(why, final)]


def hello_trouble(hello: Hello, node: bytes, nonce: bytes, host: str) -> str | None:
    """Why this Hello is not the pinned node's, in words; None when it is."""
    if hello.protocol != PROTOCOL_VERSION:
        return f"the signaling node speaks protocol version {hello.protocol}, this is {PROTOCOL_VERSION}"
    if peer_id(hello.key) != node:
        return "another signaling node answers at this address: its key is not the one that was pinned"
    if not verify(hello.key, HELLO_LABEL, hello_statement(nonce, host), hello.signature):
        return "the signaling node did not prove its key"
    return None


def make_join(identity: Identity, nonce: bytes, host: str, mesh: bytes, records: tuple[bytes, ...], now: float) -> Join:
    """The signed Join; `nonce` is the node's."""
    signature = identity.sign(JOIN_LABEL, join_statement(nonce, host, mesh, int(now)))
    return Join(mesh, identity.public, int(now), records, signature)


def own_records(members: Members, public: bytes) -> tuple[bytes, ...]:
    """What a member shows of itself: its memberships, their invites and admits, its addresses."""
    records = [parse_record(data) for data in members.records()]
    mine = {r.hash: r.body.invite for r in records if isinstance(r.body, Membership) and r.body.peer == public}
    shown: dict[type, list[bytes]] = {Invite: [], Membership: [], Admit: [], Addresses: []}
    for record in records:
        match record.body:
            case Invite(key=key) if key in mine.values():
                shown[Invite].append(record.data)
            case Membership(peer=peer) if peer == public:
                shown[Membership].append(record.data)
            case Admit(membership=membership) if membership in mine:
                shown[Admit].append(record.data)
            case Addresses(peer=peer) if peer == public:
                shown[Addresses].append(record.data)
    return tuple(data for kind in shown.values() for data in kind[:4])


def is_admitted(records: tuple[bytes, ...]) -> bool:
    """Whether somebody has admitted the membership among these own records of a peer; a newcomer's is not learned
    before that, because two claims to one slot void it.

    Raises: Broken or Refused, when one of them is bad.
    """
    return any(isinstance(parse_record(data).body, Admit) for data in records)


def in_parts(records: list[bytes], limit: int) -> list[tuple[bytes, ...]]:
    """The records in groups of at most `limit` bytes; one that is longer stands alone."""
    parts: list[list[bytes]] = []
    size = limit + 1
    for record in records:
        size += len(record) + 8
        if size > limit:
            parts.append([])
            size = len(record) + 8
        parts[-1].append(record)
    return [tuple(part) for part in parts]


def _published(members: Members) -> list[bytes]:
    kinds = (MeshInfo, Invite, Revocation)
    return [data for data in members.records() if isinstance(parse_record(data).body, kinds)]


def _tell_all(newcomer: bytes, records: list[bytes]) -> list[Effect]:
    """All records but tasks, which may be too long and come over the link."""
    short = [data for data in records if not isinstance(parse_record(data).body, TaskOffer)]
    parts = in_parts(short, PART_BYTES)
    return [
        Tell(Signal(newcomer, encode(Admitted(part, last=number == len(parts) - 1))))
        for number, part in enumerate(parts)
    ]
