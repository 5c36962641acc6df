"""One real round machine whose peers are puppets: the test says what they say, and reads what the machine does."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TypeVar

from discod.p2p import effects as fx
from discod.p2p.attempt import Attempt
from discod.p2p.certificate import bitmap, consent_hash, era_of, manifests_hash, rid_of, threshold_of
from discod.p2p.rules import Rules
from discod.ring import chunk_bounds
from discod.wire.codec import digest
from discod.wire.rounds import (
    NO_RID,
    Advert,
    Envelope,
    Have,
    Links,
    Manifest,
    Message,
    Propose,
    Receipt,
    Roster,
    RoundKeys,
    Signed,
    head_hash,
    message_hash,
    parse_envelope,
)
from tests.p2p.table import WORDS, machine_of, piece_name, sign
from tests.p2p.world import SCOPE, genesis, peer_id

E = TypeVar("E")
BASE = head_hash(genesis())
ERA = era_of(SCOPE, 0, BASE)


class Puppets:
    """`me` is the `rank`-th of those who may lead; everybody is linked with everybody and has adverted."""

    def __init__(self, peers: int = 4, rank: int = 0, min_peers: int = 3, *, secure: bool = False) -> None:
        everybody = sorted((peer_id(n) for n in range(peers)), key=lambda p: digest("discod/leader/1", ERA, p))
        self.me, self.now, self.seq = everybody[rank], 0.0, 100
        self.leader = everybody[0]
        self.others = tuple(peer for peer in everybody if peer != self.me)
        self.machine = machine_of(self.me, everybody, Rules(SCOPE, WORDS, min_peers, straggle=2.0, secure=secure))
        self.effects: list[fx.Effect] = []
        self.adverts: dict[bytes, Signed] = {}
        self.do(self.machine.start(0.0))
        for peer in self.others:
            self.do(self.machine.link(peer, 0.0))
            self.links(peer)

    def hear(self, signed: Signed) -> list[fx.Effect]:
        return self.do(self.machine.receive(signed, self.now))

    def say(self, peer: bytes, body: Message, slot: int = 0, rid: bytes | None = None) -> list[fx.Effect]:
        return self.hear(sign(peer, body, self.rid if rid is None else rid, slot))

    def links(self, peer: bytes, base: bytes = BASE, round_: int = 0, training: bool = True) -> list[fx.Effect]:
        self.seq += 1
        body = Links(self.seq, tuple(p for p in self.everybody if p != peer), round_, base, training)
        return self.say(peer, body, self.seq, NO_RID)

    def advert(self, peer: bytes, nonce: int = 0, lost: tuple[tuple[bytes, int], ...] = ()) -> Signed:
        """Made, not heard."""
        self.seq += 1
        members = self.machine.keyring.members_digest()
        body = Advert(self.seq, bytes([nonce]) * 16, 0, BASE, members, lost, self.keys(peer))
        self.adverts[peer] = sign(peer, body, ERA, self.seq)
        return self.adverts[peer]

    def keys(self, peer: bytes) -> RoundKeys | None:
        """What its next Advert promises."""
        return None

    def ready(self, peers: Iterable[bytes] | None = None, nonce: int = 0) -> None:
        """I have trained; I have adverted, and so have they."""
        self.do(self.machine.training_began(self.now))
        self.do(self.machine.update_ready(self.now))
        mine = self.sent(Advert)
        self.adverts[self.me] = mine[-1]
        for peer in self.others if peers is None else peers:
            self.hear(self.advert(peer, nonce))

    def roster(self, peers: Collection[bytes], threshold: int = 0) -> Signed:
        """Called by the leader, over their latest Adverts."""
        adverts = tuple(self.adverts[peer] for peer in sorted(peers))
        rid = rid_of(ERA, adverts, threshold or threshold_of(len(adverts)))
        return sign(self.leader, Roster(adverts), rid)

    def enter(self, nonce: int = 0) -> None:
        """Everybody is in one attempt, and has said so. Another nonce makes another round id."""
        self.ready(nonce=nonce)
        if self.machine.attempt is None:
            self.hear(self.roster(self.everybody))
        for peer in self.others:
            self.say(peer, Have(b""))

    def share(self, peers: Iterable[bytes] | None = None) -> None:
        """Their Manifests, their pieces to me, and the Receipts of all owners for all of these, mine included."""
        self.contribute()
        sharing = self.others if peers is None else tuple(peers)
        for peer in sharing:
            self.say(peer, self.manifest(peer))
            self.pieces(peer)
        for owner in sharing:
            for chunk in self.chunks_of(owner):
                self.receipt(owner, chunk, (self.me, *sharing))

    def contribute(self) -> None:
        hashes = tuple(piece_name(self.rid, self.me, chunk) for chunk in range(len(self.everybody)))
        self.do(self.machine.contributed(self.rid, hashes, self.now))

    def manifest(self, peer: bytes) -> Manifest:
        hashes = tuple(piece_name(self.rid, peer, chunk) for chunk in range(len(self.everybody)))
        return Manifest(self.attempt.tally.start, hashes)

    def pieces(self, peer: bytes) -> None:
        """All that it owes me."""
        for chunk in range(len(self.everybody)):
            if self.machine.expects(peer, self.rid, "piece", chunk, self.size(chunk)):
                self.bulk(peer, chunk)

    def bulk(self, peer: bytes, chunk: int, name: bytes | None = None, kind: str = "piece") -> list[fx.Effect]:
        name = piece_name(self.rid, peer, chunk) if name is None else name
        return self.do(self.machine.bulk_arrived(peer, self.rid, kind, chunk, name, self.now))

    def receipt(self, owner: bytes, chunk: int, peers: Iterable[bytes]) -> None:
        names = tuple((peer, self.manifest_hash(peer)) for peer in sorted(peers) if peer != owner)
        self.say(owner, Receipt(chunk, names), (chunk << 16) + 1 + len(names))

    def manifest_hash(self, peer: bytes) -> bytes:
        return message_hash(sign(peer, self.manifest(peer), self.rid))

    def propose(self, view: int, included: Collection[bytes], evidence: tuple[Signed, ...] = ()) -> Propose:
        roster = self.attempt.terms.roster
        hashes = [self.manifest_hash(peer) for peer in roster if peer in included]
        return Propose(view, bitmap(included, roster), manifests_hash(hashes), bitmap((), roster), evidence)

    def uh(self, included: Collection[bytes]) -> bytes:
        propose = self.propose(0, included)
        return consent_hash(self.rid, self.attempt.tally.start, propose.included, propose.manifests)

    def do(self, effects: list[fx.Effect]) -> list[fx.Effect]:
        self.effects += effects
        return effects

    def wait(self, seconds: float) -> list[fx.Effect]:
        """Tick at each deadline on the way."""
        end, done = self.now + seconds, list[fx.Effect]()
        while self.machine.deadline <= end:
            self.now = self.machine.deadline
            done += self.do(self.machine.tick(self.now))
        self.now = end
        return done

    def all(self, kind: type[E]) -> list[E]:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def sent(self, kind: type[Message]) -> list[Signed]:
        """What the machine has signed itself, each once."""
        sent = dict.fromkeys(e.signed for e in self.effects if isinstance(e, fx.Send))
        return [signed for signed in sent if self._is(parse_envelope(signed), kind)]

    def notes(self, event: str) -> list[tuple[bytes | None, str]]:
        return [(note.peer, note.text) for note in self.all(fx.Note) if note.event == event]

    def _is(self, envelope: Envelope, kind: type[Message]) -> bool:
        return (envelope.kind, envelope.sender) == (kind.kind, self.me)

    @property
    def everybody(self) -> tuple[bytes, ...]:
        return tuple(sorted((self.me, *self.others)))

    @property
    def attempt(self) -> Attempt:
        assert self.machine.attempt is not None
        return self.machine.attempt

    @property
    def rid(self) -> bytes:
        return self.attempt.terms.rid

    def size(self, chunk: int) -> int:
        a, b = chunk_bounds(WORDS, len(self.everybody))[chunk]
        return 4 * (b - a)

    def chunks_of(self, owner: bytes) -> list[int]:
        """Its own chunk, and the one whose safety copy it holds."""
        owners = self.attempt.owners
        return [c for c in owners.chunks if owner in (owners.current(c), owners.current(c, 1))]
