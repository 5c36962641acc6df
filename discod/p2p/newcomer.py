"""Joining a mesh with an invite link, as a machine: prove the node, find the invite, be admitted by a member.

    -> Knock            <- Hello               (its key is pinned by the link; checked before the seed is used)
    -> Find             <- Found               (MeshInfo and Invite, of the link's mesh; the seed stays here)
    -> Join             <- Room, Present...
    -> Signal Petition  <- Signaled Admitted   (all records of the mesh, which are checked here) or Declined
                                               (with free slots: try another; else ask the next member)

One member is asked at a time, the lowest PeerId first, so that two newcomers do not take one slot. `now` is Unix
seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from discod.errors import BadInvite, Broken, PeerError, Refused, SignalingUnreachable, UserError
from discod.identity import (
    Identity,
    Invite,
    InviteLink,
    Members,
    MeshInfo,
    Revocation,
    make_membership,
    parse_record,
    peer_id,
)
from discod.p2p.rendezvous import ANSWER_SECONDS, BEAT_SECONDS, Tell, hello_trouble, is_admitted, make_join
from discod.wire.codec import PROTOCOL_VERSION, decode, encode
from discod.wire.signaling import (
    MAX_SIGNAL_BYTES,
    Admitted,
    Beat,
    Declined,
    Denied,
    Find,
    Found,
    FromNode,
    Hello,
    Knock,
    Left,
    Petition,
    Present,
    Room,
    Signal,
    Signaled,
    Ticket,
    whisper,
)

FIND_AGAIN_SECONDS = 0.5
PETITION_SECONDS = 5.0  # for a member's answer, then the next one is asked
MAX_RECORDS_BYTES = 64 << 20  # of one mesh
ASK_AGAIN = "ask the person who invited you for a new link"


class State(Enum):
    """Where the newcomer stands."""

    KNOCKING = "knocking"
    FINDING = "finding the invite"
    JOINING = "joining"
    PETITIONING = "asking a member"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Progress:
    """Something to tell the person who waits."""

    text: str


@dataclass(frozen=True, slots=True)
class Joined:
    """We are a member; these are the records of the mesh, verified."""

    members: Members


@dataclass(frozen=True, slots=True)
class Failed:
    """It cannot work."""

    error: UserError


Effect = Tell | Progress | Joined | Failed


class Newcomer:
    """One attempt to join; `nonce` is 16 random bytes."""

    def __init__(self, identity: Identity, link: InviteLink, name: str, nonce: bytes) -> None:
        self.state = State.KNOCKING
        self.deadline = math.inf
        self._identity, self._link, self._name, self._nonce = identity, link, name, nonce
        self._theirs = b""
        self._root: MeshInfo | None = None
        self._invite = b""  # the record
        self._slot = 0
        self._members: dict[bytes, None] = {}  # present, and admitted by somebody
        self._declined: dict[bytes, str] = {}
        self._tried: set[bytes] = set()  # asked in this turn
        self._asked: bytes | None = None
        self._got: list[bytes] = []
        self._beats = 0

    def start(self, now: float) -> list[Effect]:
        """Knock."""
        self.deadline = now + ANSWER_SECONDS
        return [Tell(Knock(PROTOCOL_VERSION, self._nonce, self._link.address))]

    def receive(self, message: FromNode, now: float) -> list[Effect]:
        """Raises: Refused or Broken; nothing has changed then."""
        if self.state is State.ENDED:
            return []
        match message:
            case Hello():
                return self._hello(message, now)
            case Found(records=records) if self.state is State.FINDING:
                return self._found(records, now)
            case Room() if self.state is State.JOINING:
                self.state, self.deadline = State.PETITIONING, now
                return [Progress("the signaling node let us in; looking for a member")]
            case Present(peer=peer, records=records):
                return self._came(peer, records, now)
            case Left(peer=peer):
                self._members.pop(peer, None)
                return []
            case Signaled(sender=sender, body=body):
                return self._whispered(sender, body, now)
            case Denied():
                return self._denied(message, now)
            case Beat() | Ticket():
                return []  # no relay before we are a member
        raise Broken(None, "the signaling node spoke out of turn")

    def tick(self, now: float) -> list[Effect]:
        """Call at `deadline`."""
        if now < self.deadline:
            return []
        match self.state:
            case State.FINDING:
                self.deadline = now + FIND_AGAIN_SECONDS
                return [Tell(Find(self._link.key.public))]
            case State.PETITIONING:
                return self._ask(now)
            case State.KNOCKING | State.JOINING:
                return self._fail(SignalingUnreachable("the signaling node does not answer", "try again later"))
        return []

    @property
    def waiting_for(self) -> str:
        """What has not happened yet, for the person whose patience ended."""
        if self.state is State.FINDING:
            return "the signaling node does not know this invite: no member was there since it started"
        if self.state is State.PETITIONING:
            return "no member answered who could let you in"
        return "the signaling node did not answer"

    def _hello(self, hello: Hello, now: float) -> list[Effect]:
        if self.state is not State.KNOCKING:
            raise Broken(None, "a second Hello")
        if trouble := hello_trouble(hello, self._link.signaling, self._nonce, self._link.address):
            hint = f"do not go on if you do not know why; {ASK_AGAIN}"
            return self._fail(BadInvite(trouble, hint, code="wrong-signaling-key"))
        self.state, self.deadline, self._theirs = State.FINDING, now + FIND_AGAIN_SECONDS, hello.nonce
        return [Progress("the signaling node's key is the link's"), Tell(Find(self._link.key.public))]

    def _found(self, records: tuple[bytes, ...], now: float) -> list[Effect]:
        bodies = {parse_record(data).body: data for data in records}
        info = next((body for body in bodies if isinstance(body, MeshInfo)), None)
        invite = next((b for b in bodies if isinstance(b, Invite) and b.key == self._link.key.public), None)
        if info is None or invite is None:
            return []  # nobody has published it yet: ask again
        revoked = any(isinstance(body, Revocation) and body.target == invite.key for body in bodies)
        if not self._link.is_for(peer_id(info.root)) or invite.root != info.root:
            return self._fail(BadInvite("this invite is for another mesh than the link says", ASK_AGAIN))
        if revoked:
            return self._fail(BadInvite("this invite was revoked", ASK_AGAIN))
        if now > invite.expires:
            return self._fail(BadInvite("this invite has expired", ASK_AGAIN))
        self._root, self._invite = info, bodies[invite]
        self.state, self.deadline = State.JOINING, now + ANSWER_SECONDS
        own = (self._invite, self._membership(now))
        join = make_join(self._identity, self._theirs, self._link.address, peer_id(info.root), own, now)
        return [Progress(f"the invite is for {info.name}; its key matches the link"), Tell(join)]

    def _membership(self, now: float) -> bytes:
        assert self._root is not None
        mesh = peer_id(self._root.root)
        return make_membership(self._link.key, self._identity, mesh, self._name, slot=self._slot, now=int(now))

    def _came(self, peer: bytes, records: tuple[bytes, ...], now: float) -> list[Effect]:
        if is_admitted(records):
            self._members[peer] = None
            if self.state is State.PETITIONING and self._asked is None:
                self.deadline = min(self.deadline, now)
        return []

    def _ask(self, now: float) -> list[Effect]:
        """Ask the next member, again from the first when all were asked."""
        open_ones = sorted(self._members.keys() - self._declined.keys())
        if not open_ones and self._declined:
            return self._fail(_declined(next(iter(self._declined.values()))))
        self._tried = self._tried if set(open_ones) - self._tried else set()
        self._asked = next((peer for peer in open_ones if peer not in self._tried), None)
        if self._asked is None:
            self.deadline, self._beats = now + BEAT_SECONDS, self._beats + 1
            return [Tell(Beat(self._beats))]
        self._tried.add(self._asked)
        self._got, self.deadline = [], now + PETITION_SECONDS
        return [Tell(Signal(self._asked, encode(Petition(self._membership(now)))))]

    def _whispered(self, sender: bytes, body: bytes, now: float) -> list[Effect]:
        message = decode(whisper, body, MAX_SIGNAL_BYTES)
        if isinstance(message, Petition):
            return []  # from another newcomer, who takes us for a member
        if sender != self._asked:
            raise Refused(sender, "an answer from somebody who was not asked")
        if isinstance(message, Declined):
            return self._decline(sender, message, now)
        assert isinstance(message, Admitted)
        if sum(map(len, [*self._got, *message.records])) > MAX_RECORDS_BYTES:
            raise Broken(sender, "too many records")
        self._got += message.records
        return self._check(sender, now) if message.last else []

    def _decline(self, sender: bytes, message: Declined, now: float) -> list[Effect]:
        others = [slot for slot in message.free if slot > self._slot]
        if others and others[0] < 1000:
            self._slot = others[0]
            self._tried.discard(sender)
        else:
            self._declined[sender] = message.why
        return self._ask(now)

    def _check(self, sender: bytes, now: float) -> list[Effect]:
        assert self._root is not None
        members = Members(self._root.root)
        try:
            for data in self._got:
                members.add(data)
        except PeerError as error:
            self._declined[sender] = f"a member sent a bad record: {error.why}"
            return self._ask(now)
        if (why := members.why_not(self._identity.peer_id)) is not None:
            self._declined[sender] = why
            return self._ask(now)
        self.state, self.deadline = State.ENDED, math.inf
        return [Joined(members)]

    def _denied(self, denied: Denied, now: float) -> list[Effect]:
        if denied.about:
            self._members.pop(denied.about, None)
            if denied.about == self._asked:
                self.deadline = min(self.deadline, now)
            return []
        hint = "try again later"
        return self._fail(SignalingUnreachable(f"the signaling node says: {denied.why}", hint, code=denied.code))

    def _fail(self, error: UserError) -> list[Effect]:
        self.state, self.deadline = State.ENDED, math.inf
        return [Failed(error)]


def _declined(why: str) -> BadInvite:
    return BadInvite(f"no member lets you in: {why}", ASK_AGAIN)
