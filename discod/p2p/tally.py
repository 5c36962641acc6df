"""The facts of one attempt: who said what, whose pieces are where. No time, no decisions; order does not matter.

One body per (kind, sender, slot): a byte-identical duplicate is ignored, a different body for the same slot is refused
as equivocation, with both messages as proof where no honest peer ever signs two. A message that carries others as its
evidence (Propose, View) is taken as if those had arrived as well; all of it is checked before any of it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, cast

from discod.errors import Broken, Refused
from discod.p2p.certificate import consent_hash, from_bitmap
from discod.p2p.terms import VIEWS
from discod.wire.codec import HASH_BYTES
from discod.wire.rounds import (
    Consent,
    Done,
    Envelope,
    Have,
    Leave,
    Manifest,
    Message,
    Proof,
    Propose,
    Reassign,
    Receipt,
    Shares,
    Signed,
    Start,
    Sum,
    Unmask,
    View,
    message_hash,
    parse_body,
)

SHARE_BYTES = 33
SIGNED_ONCE = (
    Start.kind,
    Consent.kind,
    Done.kind,
    Propose.kind,
    Manifest.kind,
    Unmask.kind,
)  # two of one slot are proof of equivocation


class Equivocation(Refused):
    """One peer signed two bodies for one slot."""

    def __init__(self, peer: bytes, kind: str, first: Signed, second: Signed) -> None:
        super().__init__(peer, f"a second, different {kind} for one slot")
        self.signer, self.kind, self.first, self.second = peer, kind, first, second


def signer_of_both(proof: Proof, check: Callable[[Signed], Envelope], scope: bytes) -> bytes:
    """Who signed two messages that no honest peer signs both. Raises Refused where these are not such two."""
    one, other = check(proof.first), check(proof.second)
    same = (one.kind, one.rid, one.sender, one.slot) == (other.kind, other.rid, other.sender, other.slot)
    if not same or one == other or one.kind not in SIGNED_ONCE or (one.scope, other.scope) != (scope, scope):
        raise Refused(None, "a proof of nothing")
    return one.sender


class _Terms(Protocol):
    @property
    def rid(self) -> bytes: ...
    @property
    def me(self) -> bytes: ...
    @property
    def roster(self) -> tuple[bytes, ...]: ...
    @property
    def threshold(self) -> int: ...
    @property
    def sizes(self) -> tuple[int, ...]: ...
    @property
    def witness(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Fact:
    envelope: Envelope
    body: Message
    signed: Signed
    settled: bool = False  # carried by an Unmask: t peers have consented, whoever proposed it

    @property
    def key(self) -> tuple[str, bytes, int]:
        return self.envelope.kind, self.envelope.sender, self.envelope.slot


class Tally:
    """Everything known under one rid."""

    def __init__(self, terms: _Terms, check: Callable[[Signed], Envelope]) -> None:
        self._terms = terms
        self.started: frozenset[bytes] = frozenset()  # U1; nothing but what leads to it is recorded before it is known
        self.start = b""  # u1h
        self._check = check
        self._members = frozenset(terms.roster)
        self._signed: dict[tuple[str, bytes, int], Signed] = {}
        self._receipts: dict[tuple[bytes, int], dict[bytes, bytes]] = {}  # (holder, chunk) -> peer -> manifest hash
        self._latest_receipt: dict[tuple[bytes, int], tuple[int, Signed]] = {}
        self._announced: dict[tuple[int, bytes], tuple[bytes, bytes]] = {}  # (chunk, owner) -> (uh, hash)
        self._sums: dict[int, tuple[bytes, bytes]] = {}  # chunk -> (uh, hash): the words are here
        self._offers: dict[int, tuple[Propose, Signed]] = {}
        self.present: set[bytes] = {terms.me}  # peers that have answered this roster
        self.left: set[bytes] = set()
        self.manifests: dict[bytes, tuple[bytes, Manifest, Signed]] = {}
        self.held: dict[int, set[bytes]] = {}  # chunk -> peers whose pieces are here
        self.views: dict[int, dict[bytes, View]] = {}
        self.consents: dict[bytes, dict[bytes, Signed]] = {}  # uh -> peer -> its Consent
        self.offered: dict[bytes, frozenset[bytes]] = {}  # uh -> U
        self.consented: bytes | None = None  # the one uh this peer consented to
        self.consented_on: Signed | None = None  # the Propose it answered
        self.opened: bytes | None = None
        self.unmasks: dict[bytes, Unmask] = {}

    def begin(self, started: frozenset[bytes], start: bytes) -> None:
        """The set that starts, and its hash."""
        self.started, self.start = started, start

    # -- messages -------------------------------------------------------------------------------------------------

    def record(self, envelope: Envelope, body: Message, signed: Signed, leader: Callable[[int], bytes]) -> None:
        """Keep a verified message and all it carries; `leader(view)` says who may propose in a view.

        Raises:
            Equivocation: another body for a slot already filled.
            Refused, Broken: it does not fit the roster, or its evidence does not verify. Nothing is kept then.
        """
        facts = list(self._unfold(_Fact(envelope, body, signed)))
        fresh = [fact for fact in facts if self._is_new(fact)]
        for fact in fresh:
            self._validate(fact, leader)
        for fact in fresh:
            self._keep(fact)

    def _unfold(self, fact: _Fact) -> Iterable[_Fact]:
        carried: tuple[Signed | None, ...] = ()
        if isinstance(fact.body, Propose):
            carried = fact.body.evidence
        elif isinstance(fact.body, View):
            carried = (fact.body.consent, fact.body.propose)
        elif isinstance(fact.body, Unmask):
            carried = (fact.body.propose, *fact.body.consents)
        for signed in carried:
            if signed is None:
                continue
            envelope = self._check(signed)
            body = parse_body(envelope)
            allowed = (Manifest, Receipt) if isinstance(fact.body, Propose) else (Consent, Propose)
            if envelope.rid != self._terms.rid or not isinstance(body, allowed):
                raise Refused(fact.envelope.sender, f"{fact.envelope.kind} with evidence of another kind or round")
            if isinstance(body, Consent) and isinstance(fact.body, View) and envelope.sender != fact.envelope.sender:
                raise Refused(fact.envelope.sender, "a View with another peer's Consent")
            inner = _Fact(envelope, body, signed, isinstance(fact.body, Unmask))
            yield from self._unfold(inner)
        yield fact

    def _is_new(self, fact: _Fact) -> bool:
        if (known := self._signed.get(fact.key)) is None:
            return True
        if known.envelope != fact.signed.envelope:
            raise Equivocation(fact.envelope.sender, fact.envelope.kind, known, fact.signed)
        return False

    def _validate(self, fact: _Fact, leader: Callable[[int], bytes]) -> None:
        sender, slot, body = fact.envelope.sender, fact.envelope.slot, fact.body
        if sender not in self._members:
            raise Refused(sender, "not in this roster")
        match body:
            case Manifest():
                right = body.start == self.start and len(body.chunks) == len(self._terms.sizes)
                fits = slot == 0 and sender in self.started and right and all(len(h) == HASH_BYTES for h in body.chunks)
            case Receipt():
                peers = [peer for peer, _ in body.pieces]
                fits = 0 <= body.chunk < len(self._terms.sizes) and slot >> 16 == body.chunk
                fits = fits and self._members.issuperset(peers) and len(set(peers)) == len(peers)
            case Sum():
                fits = slot == body.chunk < len(self._terms.sizes) and len(body.hash) == len(body.uh) == HASH_BYTES
            case View():
                fits = slot == body.view and 0 < body.view < VIEWS
            case Propose():
                included = from_bitmap(body.included, self._terms.roster)
                fits = (
                    included <= self.started
                    and 0 <= slot == body.view < VIEWS
                    and (fact.settled or self._leads(sender, body.view, leader))
                    and self._gone_fits(body.gone)
                )
            case Reassign():
                fits = slot >> 16 == body.view and self._leads(sender, body.view, leader) and self._gone_fits(body.gone)
            case Consent():
                fits = slot == 0 and len(body.uh) == HASH_BYTES
            case Unmask():
                fits = slot == 0 and sender in self.started and self._may_unmask(sender, body)
            case Leave() | Done():
                fits = slot == 0
            case Shares() | Have() | Start():
                fits = True  # checked by starting.py
            case _:
                fits = False
        if not fits:
            raise Refused(sender, f"a {fact.envelope.kind} that does not fit this round")

    def _may_unmask(self, sender: bytes, unmask: Unmask) -> bool:
        """One share for each of U1, the Propose of this sum, and t Consents to it, the sender's own among them."""
        fitting = len(unmask.shares) == len(self.started) and all(len(s) == SHARE_BYTES for s in unmask.shares)
        consents = [(e.sender, parse_body(e)) for e in map(self._check, unmask.consents) if e.kind == Consent.kind]
        agreed = {peer for peer, body in consents if isinstance(body, Consent) and body.uh == unmask.uh}
        offer = parse_body(self._check(unmask.propose))
        if not isinstance(offer, Propose):
            return False
        uh = consent_hash(self._terms.rid, self.start, offer.included, offer.manifests)
        return fitting and uh == unmask.uh and sender in agreed and len(agreed & self._members) >= self._terms.threshold

    def _leads(self, sender: bytes, view: int, leader: Callable[[int], bytes]) -> bool:
        return view < VIEWS and sender == leader(view)

    def _gone_fits(self, bits: bytes) -> bool:
        """Enough must be left to own chunks."""
        return len(self._members) - len(from_bitmap(bits, self._terms.roster)) >= self._terms.threshold

    def _keep(self, fact: _Fact) -> None:
        sender, slot, body, signed = fact.envelope.sender, fact.envelope.slot, fact.body, fact.signed
        self._signed[fact.key] = signed
        match body:
            case Leave():
                self.left.add(sender)
            case Manifest():
                self.manifests[sender] = (message_hash(signed), body, signed)
            case Receipt():
                key = (sender, body.chunk)
                self._receipts.setdefault(key, {}).update(body.pieces)
                self._latest_receipt[key] = max(self._latest_receipt.get(key, (-1, signed)), (slot, signed), key=_slot)
            case Propose():
                if not (fact.settled and body.view in self._offers):
                    self._offers[body.view] = (body, signed)
            case View():
                self.views.setdefault(body.view, {})[sender] = body
            case Consent():
                self.consents.setdefault(body.uh, {})[sender] = signed
            case Unmask():
                self.unmasks[sender] = body
            case Sum():
                self._announced[(body.chunk, sender)] = (body.uh, body.hash)
        if not isinstance(body, Leave):
            self.present.add(sender)

    # -- bulk -------------------------------------------------------------------------------------------------------

    def wants_piece(self, sender: bytes, chunk: int) -> bool:
        return sender in self.manifests and sender not in self.held.get(chunk, ())

    def hold_piece(self, sender: bytes, chunk: int, hash_: bytes) -> None:
        """Raises Broken when the words are not the ones the Manifest promised."""
        if sender not in self.manifests or self.manifests[sender][1].chunks[chunk] != hash_:
            raise Broken(sender, f"piece {chunk} differs from its manifest")
        self.held.setdefault(chunk, set()).add(sender)

    def wants_sum(self, sender: bytes, chunk: int) -> bool:
        return (chunk, sender) in self._announced and not self.has_sum(chunk)

    def arrived_sum(self, sender: bytes, chunk: int, hash_: bytes) -> None:
        """Raises Broken when the words are not the ones their owner signed."""
        uh, announced = self._announced.get((chunk, sender), (b"", b""))
        if announced != hash_:
            raise Broken(sender, f"sum {chunk} differs from what its owner signed")
        if not self.has_sum(chunk):
            self._sums[chunk] = (uh, hash_)

    def have_sum(self, chunk: int, hash_: bytes) -> None:
        assert self.opened is not None
        self._sums[chunk] = (self.opened, hash_)

    def has_sum(self, chunk: int) -> bool:
        return chunk in self._sums and self.opened in (None, self._sums[chunk][0])

    def settled(self, chunk: int) -> bool:
        """Whether nothing more is needed of a chunk: its sum is here, with a witness by the word of two peers."""
        if not self.has_sum(chunk):
            return False
        return not self._terms.witness or len(self._sayers(chunk).get(self._sums[chunk], ())) > 1

    def sums_complete(self) -> bool:
        return all(not size or self.settled(c) for c, size in enumerate(self._terms.sizes))

    def disputed(self) -> list[tuple[bytes, bytes]]:
        """(who, hash) of sums of a chunk that differ although they are over one set; which is false nobody knows."""
        for chunk in range(len(self._terms.sizes)):
            said = {sum_: peers for sum_, peers in self._sayers(chunk).items() if sum_[0] == self.opened}
            if len(said) > 1:
                return [(peer, hash_) for (_, hash_), peers in said.items() for peer in peers]
        return []

    def _sayers(self, chunk: int) -> dict[tuple[bytes, bytes], list[bytes]]:
        """(uh, hash) -> who has signed it as the sum of a chunk."""
        found: dict[tuple[bytes, bytes], list[bytes]] = {}
        for (announced, peer), sum_ in self._announced.items():
            if announced == chunk:
                found.setdefault(sum_, []).append(peer)
        return found

    def sums(self) -> tuple[bytes, ...]:
        """The hash of each chunk's sum, once they are complete."""
        return tuple(self._sums[c][1] if size else b"" for c, size in enumerate(self._terms.sizes))

    def pieces_of(self, chunk: int) -> frozenset[bytes]:
        """Peers whose piece of this chunk is at hand, my own included once I have shared it."""
        own = {self._terms.me} if self._terms.me in self.manifests else set()
        return frozenset(self.held.get(chunk, set()) | own)

    # -- answers ----------------------------------------------------------------------------------------------------

    def manifest_hash(self, peer: bytes) -> bytes | None:
        return self.manifests[peer][0] if peer in self.manifests else None

    def receipted(self, holder: bytes, chunk: int, peer: bytes) -> bool:
        hash_ = self._receipts.get((holder, chunk), {}).get(peer)
        return hash_ is not None and hash_ == self.manifest_hash(peer)

    def count(self, uh: bytes) -> int:
        return len(self.consents.get(uh, ()))

    def latest_offer(self, view: int) -> tuple[Propose, Signed] | None:
        """The proposal of the latest view that is not before `view`."""
        latest = max(self._offers, default=-1)
        return self._offers[latest] if latest >= view else None

    def offers(self) -> list[Propose]:
        return [propose for propose, _ in self._offers.values()]

    def most_consented(self, views: Iterable[View]) -> frozenset[bytes] | None:
        """The U with most Consents in these Views (tie: the lower uh); None where nobody has consented."""
        named = [cast(Consent, parse_body(self._check(v.consent))).uh for v in views if v.consent is not None]
        known = [uh for uh in named if uh in self.offered]
        if not known:
            return None
        return self.offered[min(known, key=lambda uh: (-known.count(uh), uh))]

    def evidence(self, included: frozenset[bytes]) -> tuple[Signed, ...]:
        """What a Propose rests on: the manifests of U and every holder's latest receipts."""
        manifests = [self.manifests[peer][2] for peer in self._terms.roster if peer in included]
        return (*manifests, *(self._latest_receipt[key][1] for key in sorted(self._latest_receipt)))

    @property
    def own_consent(self) -> tuple[Signed | None, Signed | None]:
        """My Consent and the Propose it answers, for Views."""
        return self._signed.get((Consent.kind, self._terms.me, 0)), self.consented_on

    def proofs_of_opening(self) -> tuple[Signed, ...]:
        """The Propose I answered and the Consents that opened it, for a peer that has missed them."""
        if self.opened is None or self.consented != self.opened or self.consented_on is None:
            return ()
        return (self.consented_on, *self.consents[self.opened].values())


def _slot(entry: tuple[int, Signed]) -> int:
    return entry[0]
