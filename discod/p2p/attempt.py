"""One attempt at a round: everything that happens under one rid, from the answered roster to the signed new state.

    i -> all        Have                     I answer this roster; bulk may be sent to me under it
    i -> all        Manifest                 hashes of my chunks; the update is spent from here on
    i -> owner(c)   piece c                  and the owner's own piece to the next in order: the safety copy
    owner -> all    Receipt                  whose pieces of c I hold
    leader -> all   Propose{view, U}         (or Reassign first, when an owner is gone)
    i -> all        Consent{uh}              t of them open the sum over exactly U
    owner -> all    Sum{c}, then its words
    i -> all        Done{state}              counted by the round machine, not here

Chunk c belongs to the c-th of the owner order H(rid | id); when that peer is gone, to the next in order that is not. A
silent leader is succeeded: view v belongs to the v-th of the view order, and a Propose in a later view must repeat the
U that most have consented to. The attempt is level-triggered: every input records a fact, then `_advance` does whatever
the facts allow and has not been done, so the order of delivery does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from discod.p2p import effects as fx
from discod.p2p.certificate import bitmap, from_bitmap, start_hash
from discod.p2p.owners import Owners
from discod.p2p.safety import proposal, silent_owners, sum_named_by, whole_peers
from discod.p2p.tally import Tally
from discod.p2p.terms import (
    CERTIFY_SECONDS,
    HAVE_SECONDS,
    MOVE_SECONDS,
    RELINK_SECONDS,
    RESEND_SECONDS,
    VIEW_SECONDS,
    VIEWS,
    Clocks,
    Phase,
    Terms,
)
from discod.wire.rounds import (
    Consent,
    Done,
    Envelope,
    Have,
    Manifest,
    Message,
    Propose,
    Reassign,
    Receipt,
    Signed,
    Sum,
    View,
)

Say = Callable[[Message, int], None]  # sign a body for the whole roster; the slot


class Attempt:
    """Pure; see the module. `say` signs and queues a message to the roster, `out` collects the other effects."""

    def __init__(
        self, terms: Terms, linked: frozenset[bytes], say: Say, check: Callable[[Signed], Envelope], now: float
    ) -> None:
        self.terms = terms
        self.phase = Phase.ANSWERED
        self.out: list[fx.Effect] = []
        self.why = ""
        self._say = say
        self.owners = Owners(terms.rid, terms.roster, terms.sizes)
        self.view_order = (terms.leader, *(p for p in self.owners.order if p != terms.leader))
        self.start = start_hash(terms.rid, terms.roster, terms.roster)
        self.tally = Tally(terms, self.start, check)
        self.clocks = Clocks(have=now + HAVE_SECONDS)
        self.linked = set(linked)
        self.left = self.tally.left
        self.straggled = False  # the others have had their time: go on with what is here
        self.view = 0
        self._proposed = -1  # last view this peer proposed in
        self._reassigned = 0
        self._sent: set[tuple[str, bytes, int]] = set()  # bulk on its way or there: (piece | sum, to, chunk)
        self._receipt_slots: dict[int, int] = {}
        self._receipted: dict[int, frozenset[bytes]] = {}
        self._combining: set[int] = set()
        self._summed: dict[int, bytes] = {}  # chunks I combined myself
        self._applying = False
        for peer in terms.roster:
            if peer != terms.me and peer not in linked:
                self.clocks.links[peer] = now + RELINK_SECONDS

    def begin(self, now: float) -> None:
        self._say(Have(b""), 0)
        self._advance(now)

    def contributed(self, hashes: tuple[bytes, ...], now: float) -> None:
        """My update is encoded and its spent record is on disk."""
        if self.wants_update:
            self.phase = Phase.SHARED
            self._say(Manifest(self.start, hashes), 0)
            self._advance(now)

    def receive(self, envelope: Envelope, body: Message, signed: Signed, now: float) -> None:
        """A verified message of a roster member. Raises PeerError and changes nothing when it breaks a rule."""
        self.tally.record(envelope, body, signed, self._leader)
        if isinstance(body, Reassign | Propose) and body.view >= self.view:
            gone = self.owners.gone | from_bitmap(body.gone, self.terms.roster)
            if len(self.terms.roster) - len(gone) >= self.terms.threshold:
                self.owners.gone = gone
        if isinstance(body, View) and envelope.sender in self.linked:
            self.out.extend(fx.Send(envelope.sender, proof) for proof in self.tally.proofs_of_opening())
        self._advance(now)

    def record_own(self, envelope: Envelope, body: Message, signed: Signed) -> None:
        """What I said counts like what the others say; called from within `say`, so nothing is advanced here."""
        self.tally.record(envelope, body, signed, self._leader)

    def alive(self) -> list[bytes]:
        """Roster members that have neither left nor been out of reach for too long."""
        return [peer for peer in self.terms.roster if not self._out(peer)]

    def leave(self, peer: bytes, now: float) -> None:
        """A roster member entered a newer attempt or said goodbye."""
        self.left.add(peer)
        self._advance(now)

    def lost(self, peer: bytes, now: float) -> None:
        if peer in self.linked:
            self.linked.discard(peer)
            self._sent = {key for key in self._sent if key[1] != peer}  # it is sent again on a new link
            self.clocks.links[peer] = now + RELINK_SECONDS
            self._advance(now)

    def relinked(self, peer: bytes, now: float) -> None:
        self.linked.add(peer)
        self.clocks.links.pop(peer, None)
        self._advance(now)

    def refused_bulk(self, kind: str, to: bytes, chunk: int, now: float) -> None:
        """The receiver did not expect it yet: try again a little later."""
        self._sent.discard((kind, to, chunk))
        self.clocks.resend = min(self.clocks.resend, now + RESEND_SECONDS)

    def piece(self, sender: bytes, chunk: int, hash_: bytes, now: float) -> None:
        """All words of a piece arrived. Raises Refused when they are not what its Manifest says."""
        self.tally.hold_piece(sender, chunk, hash_)
        self._advance(now)

    def combined(self, chunk: int, hash_: bytes, now: float) -> None:
        """I summed a chunk over U."""
        self._summed[chunk] = hash_
        self.tally.have_sum(chunk, hash_)
        assert self.tally.opened is not None
        self._say(Sum(self.tally.opened, chunk, hash_), chunk)
        self._advance(now)

    def sum_arrived(self, sender: bytes, chunk: int, hash_: bytes, now: float) -> None:
        """All words of a sum arrived. Raises Refused when they are not what its owner signed."""
        self.tally.arrived_sum(sender, chunk, hash_)
        self._advance(now)

    def applied(self, state: bytes, now: float) -> None:
        """The new joint state is on disk."""
        if self.phase is Phase.OPENED:
            self.phase = Phase.SIGNED
            self.clocks.move = math.inf
            self._say(Done(state), 0)
            self._advance(now)

    def tick(self, now: float) -> None:
        self._advance(now)

    def close(self, why: str) -> None:
        """Nothing is emitted after this."""
        if self.phase is not Phase.CLOSED:
            spent = self.spent
            self.phase, self.why = Phase.CLOSED, why
            self.out.append(fx.Close(self.terms.rid, why, spent))
            self.clocks = Clocks()

    @property
    def deadline(self) -> float:
        return self.clocks.next()

    @property
    def closed(self) -> bool:
        return self.phase is Phase.CLOSED

    @property
    def wants_update(self) -> bool:
        """Whether a Manifest of mine would still count."""
        return self.phase is Phase.ANSWERED and self.tally.consented is None and self.tally.opened is None

    @property
    def spent(self) -> bool:
        return self.terms.me in self.tally.manifests

    def expects(self, kind: str, sender: bytes, chunk: int, size: int) -> bool:
        """Whether bulk with this header is to be received; nothing else may take memory."""
        if self.phase is Phase.CLOSED or not 0 <= chunk < len(self.terms.sizes):
            return False
        if not size or size != 4 * self.terms.sizes[chunk]:
            return False
        if kind == "sum":
            return self.tally.wants_sum(sender, chunk)
        return kind == "piece" and self.tally.wants_piece(sender, chunk) and self._holds(chunk, sender)

    def _leader(self, view: int) -> bytes:
        return self.view_order[view % len(self.view_order)]

    def _holds(self, chunk: int, sender: bytes) -> bool:
        """Whether I may be asked to hold this piece: as its owner, for the safety copy, or as the next in order."""
        if self.terms.me == self.owners.current(chunk):
            return True
        next_one = self.terms.me == self.owners.current(chunk, 1)
        return next_one and (self.tally.opened is not None or sender == self.owners.current(chunk))

    def _out(self, peer: bytes) -> bool:
        """Left, or without a link for longer than it may take to come back."""
        unreachable = peer != self.terms.me and peer not in self.linked and peer not in self.clocks.links
        return peer in self.left or unreachable

    def _advance(self, now: float) -> None:
        if not self.closed:
            self._run_clocks(now)
        for step in (self._send_pieces, self._send_receipts, self._lead, self._follow, self._open, self._share_sums):
            if not self.closed:
                step(now)

    def _run_clocks(self, now: float) -> None:
        clocks, terms = self.clocks, self.terms
        if now >= clocks.have:
            clocks.have = math.inf
            self.left |= set(terms.roster) - self.tally.present
        for peer in [p for p, at in clocks.links.items() if now >= at]:
            del clocks.links[peer]
        if now >= clocks.resend:
            clocks.resend = math.inf
        if len(self.tally.manifests) >= terms.threshold and clocks.consents == math.inf and self.tally.opened is None:
            clocks.straggle = now + terms.straggle + terms.bulk
            clocks.view = clocks.straggle + VIEW_SECONDS
            clocks.consents = clocks.straggle + VIEW_SECONDS * (2**VIEWS - 1)
        self._run_deadlines(now)

    def _run_deadlines(self, now: float) -> None:
        clocks, terms = self.clocks, self.terms
        alive = len(self.alive())
        if alive < terms.threshold and self.phase is not Phase.SIGNED:
            return self.close(f"{alive} of the {terms.threshold} peers needed are left")
        if now >= clocks.consents:
            return self.close("no agreement on whose updates to sum in time")
        if now >= clocks.certify:
            return self.close("no certificate in time")
        if now >= clocks.straggle:
            clocks.straggle = math.inf
            self.straggled = True
        if self.tally.opened is None and now >= clocks.view:
            self._next_view(now)
        if self.tally.opened is not None and self.phase is not Phase.SIGNED:
            self._skip_lost_owners()
            if now >= clocks.move:
                self._move_chunks(now)
        return None

    def _next_view(self, now: float) -> None:
        last = self.view + 1 == VIEWS  # after it only the deadline for Consents is left
        self.clocks.view = math.inf if last else now + VIEW_SECONDS * 2.0 ** (self.view + 1)
        if not last:
            self.view += 1
            consent, propose = self.tally.own_consent
            self._say(View(self.view, consent, propose), self.view)

    def _send_pieces(self, now: float) -> None:
        if not self.spent or self.clocks.resend < math.inf:
            return
        if self.tally.opened and self.terms.me not in self.tally.offered.get(self.tally.opened, self.terms.roster):
            return
        for chunk in self.owners.chunks:
            if not self.tally.has_sum(chunk):
                for receiver in self.owners.receivers(chunk, self.terms.me):
                    self._send_bulk("piece", receiver, chunk)

    def _send_bulk(self, kind: str, to: bytes, chunk: int) -> None:
        key = (kind, to, chunk)
        ready = to in self.linked and to in self.tally.present and to not in self.left
        if to != self.terms.me and ready and key not in self._sent:
            self._sent.add(key)
            send = fx.SendPiece if kind == "piece" else fx.SendSum
            self.out.append(send(to, self.terms.rid, chunk))

    def _send_receipts(self, now: float) -> None:
        for chunk, held in self.tally.held.items():
            theirs = frozenset(held) - {self.terms.me}
            if not theirs or theirs == self._receipted.get(chunk):
                continue
            if not (self.straggled or self._all_pieces(chunk, theirs)):
                continue
            slot = self._receipt_slots[chunk] = self._receipt_slots.get(chunk, chunk << 16) + 1
            self._receipted[chunk] = theirs
            pieces = tuple((peer, self.tally.manifests[peer][0]) for peer in sorted(theirs))
            self._say(Receipt(chunk, pieces), slot)

    def _all_pieces(self, chunk: int, theirs: frozenset[bytes]) -> bool:
        """Whether all I wait for under this chunk is here; a safety copy comes alone and is receipted at once."""
        if self.terms.me != self.owners.current(chunk):
            return True
        return all(p in theirs or p == self.terms.me or self._out(p) for p in self.terms.roster)

    def _lead(self, now: float) -> None:
        """Propose a U when this is my view and the facts allow it."""
        if self.terms.me != self._leader(self.view) or self.tally.opened or self._proposed >= self.view:
            return
        forced: frozenset[bytes] | None = None
        if self.view:
            views = self.tally.views.get(self.view, {})
            if len(views) < self.terms.threshold:
                return
            forced = self.tally.most_consented(views.values())
        self._spread_gone()
        whole = whole_peers(self.owners, self.tally, self.terms.roster, self.owners.gone)
        if forced is None and not (self.straggled or all(p in whole or self._out(p) for p in self.terms.roster)):
            return
        included = whole if forced is None else forced
        if len(included) >= self.terms.threshold and included <= whole:
            self._propose(included)

    def _propose(self, included: frozenset[bytes]) -> None:
        self._proposed = self.view
        self._say(proposal(self.terms, self.tally, self.owners.gone, self.view, included), self.view)

    def _spread_gone(self) -> None:
        """As the leader: name the owners that are out, or silent after the straggle, so that their chunks move."""
        gone = self.owners.gone | {p for p in self.terms.roster if self._out(p)}
        if self.straggled:
            gone |= silent_owners(self.owners, self.tally, self.terms, gone)
        if gone != self.owners.gone and len(self.terms.roster) - len(gone) >= self.terms.threshold:
            self.owners.gone = gone
            self._say(Reassign(self.view, bitmap(gone, self.terms.roster)), self.view << 16 | self._reassigned)
            self._reassigned += 1

    def _follow(self, now: float) -> None:
        """Consent to the latest proposal, once per rid, if everything it rests on is here."""
        if (offer := self.tally.latest_offer(self.view)) is None:
            return
        propose, signed = offer
        if (named := sum_named_by(self.terms, self.start, self.tally, propose)) is None:
            return
        uh, included = named
        self.tally.offered[uh] = included
        gone = from_bitmap(propose.gone, self.terms.roster)
        whole = included <= whole_peers(self.owners, self.tally, self.terms.roster, gone)
        if self.tally.consented is None and (whole or self.tally.count(uh) >= self.terms.threshold):
            self.view = max(self.view, propose.view)
            self.tally.consented, self.tally.consented_on = uh, signed
            if self.phase is Phase.SHARED:
                self.phase = Phase.CONSENTED
            self._say(Consent(uh), 0)

    def _open(self, now: float) -> None:
        """t Consents to one sum: it is open, and no leader is needed any more."""
        if self.tally.opened is None:
            uh = next((uh for uh in self.tally.consents if self.tally.count(uh) >= self.terms.threshold), None)
            if uh is None:
                return
            self.tally.opened = uh
            self.phase = Phase.OPENED
            self.clocks.view = self.clocks.consents = self.clocks.straggle = math.inf
            self.clocks.certify = now + CERTIFY_SECONDS + 3 * self.terms.bulk
            self.clocks.move = now + MOVE_SECONDS + self.terms.bulk
        if self.tally.sums_complete() and not self._applying:
            self._applying = True
            included = self.tally.offered.get(self.tally.opened, frozenset())
            self.out.append(fx.Apply(self.terms.rid, self.tally.sums(), tuple(sorted(included))))

    def _share_sums(self, now: float) -> None:
        included = self.tally.offered.get(self.tally.opened or b"")
        if included is None:
            return
        for chunk in self.owners.chunks:
            due = chunk not in self._combining and self.terms.me in self.owners.so_far(chunk)
            if due and included <= self.tally.pieces_of(chunk):
                self._combining.add(chunk)
                ordered = tuple(p for p in self.terms.roster if p in included)
                self.out.append(fx.Combine(self.terms.rid, chunk, ordered))
            if chunk in self._summed and self.clocks.resend == math.inf:
                for peer in self.terms.roster:
                    self._send_bulk("sum", peer, chunk)

    def _move_chunks(self, now: float) -> None:
        """A chunk without its Sum goes to the next owner in order, also from an owner that is linked but silent."""
        self.clocks.move = now + MOVE_SECONDS + self.terms.bulk
        for chunk in self.owners.chunks:
            if not self.tally.has_sum(chunk):
                self.owners.move(chunk)

    def _skip_lost_owners(self) -> None:
        """After t Consents no leader is needed: nobody waits for an owner that is out."""
        for chunk in self.owners.chunks:
            while not self.tally.has_sum(chunk) and self._out(self.owners.current(chunk)) and self.owners.move(chunk):
                pass
