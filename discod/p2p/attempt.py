"""One attempt at a round: everything that happens under one rid, from the answered roster to the signed new state.

    i -> all        Have                     I answer this roster; bulk may be sent to me under it (starting.py)
    leader -> all   Start                    secure: the set U1 that masks with one another
    i -> all        Manifest                 hashes of my chunks; the update is spent from here on
    i -> owner(c)   piece c                  and the owner's own piece to the next in order: the safety copy
    owner -> all    Receipt                  whose pieces of c I hold
    leader -> all   Propose{view, U}         (or Reassign first, when an owner is gone)
    i -> all        Consent{uh}              t of them open the sum over exactly U
    i -> all        Unmask                   secure: my shares of what opens this sum, and no other
    owner -> all    Sum{c}, then its words
    i -> all        Done{state}              counted by the round machine, not here

Chunk c belongs to the c-th of the owner order H(rid | id); when that peer is gone, to the next in order that is not.
The bulk is in hauling.py, the way to one U in agreeing.py. The attempt is level-triggered: every input records a fact,
then `_advance` does whatever the facts allow and has not been done, so the order of delivery does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from discod.errors import PeerError, Refused
from discod.masks import Masks
from discod.p2p import effects as fx
from discod.p2p.agreeing import Agreeing
from discod.p2p.certificate import start_hash
from discod.p2p.hauling import Hauling
from discod.p2p.owners import Owners
from discod.p2p.secagg import SecureSum
from discod.p2p.starting import Starting
from discod.p2p.tally import Tally
from discod.p2p.terms import (
    CERTIFY_SECONDS,
    HAVE_SECONDS,
    MOVE_SECONDS,
    RELINK_SECONDS,
    VIEW_SECONDS,
    VIEWS,
    Clocks,
    Phase,
    Terms,
)
from discod.wire.rounds import (
    Done,
    Envelope,
    Have,
    Leave,
    Manifest,
    Message,
    Propose,
    Reassign,
    Shares,
    Signed,
    Start,
    Sum,
    Unmask,
    View,
)

EARLY_MESSAGES = 16  # per peer, held until the Start

Say = Callable[[Message, int], None]  # sign a body for the whole roster; the slot
SayTo = Callable[[bytes, Message, int], None]  # the same, for one peer


class Attempt:
    """Pure; see the module. `say` signs and queues a message to the roster, `out` collects the other effects."""

    def __init__(
        self,
        terms: Terms,
        secure: SecureSum | None,
        linked: frozenset[bytes],
        say: Say,
        say_to: SayTo,
        check: Callable[[Signed], Envelope],
        now: float,
    ) -> None:
        self.terms = terms
        self.phase = Phase.ANSWERED
        self.out: list[fx.Effect] = []
        self.why = ""
        self._say, self._say_to, self._check = say, say_to, check
        self.owners = Owners(terms.rid, terms.roster, terms.sizes, witness=terms.witness)
        self.starting = Starting(terms, secure, now)
        self.tally = Tally(terms, check)
        self._early: list[tuple[Envelope, Message, Signed]] = []  # what can only be judged after the Start
        self.clocks = Clocks(have=now + HAVE_SECONDS)
        self.linked = set(linked)
        self.left = self.tally.left
        self.agreeing = Agreeing(terms, self.owners, self.tally, say, self._out)
        self.hauling = Hauling(terms, self.owners, self.tally, self.linked, self.out, say, self._out)
        self._opening: Masks | None = None  # what comes off the sums
        self._unmasked = self._applying = self._moved = False
        for peer in terms.roster:
            if peer != terms.me and peer not in linked:
                self.clocks.links[peer] = now + RELINK_SECONDS

    def begin(self, now: float) -> None:
        self.starting.begin(self._say, self._say_to)
        if self.starting.started:
            self._begin()
        self._advance(now)

    def contributed(self, hashes: tuple[bytes, ...], now: float) -> None:
        """My update is encoded and its spent record is on disk."""
        if self.wants_update:
            self.phase = Phase.SHARED
            self._say(Manifest(self.tally.start, hashes), 0)
            self._advance(now)

    def receive(self, envelope: Envelope, body: Message, signed: Signed, now: float) -> None:
        """A verified message of a roster member. Raises PeerError and changes nothing when it breaks a rule."""
        if not self._record(envelope, body, signed):
            return
        if isinstance(body, View) and envelope.sender in self.linked:
            self.out.extend(fx.Send(envelope.sender, proof) for proof in self.tally.proofs_of_opening())
        self._advance(now)

    def record_own(self, envelope: Envelope, body: Message, signed: Signed) -> None:
        """What I said counts like what the others say; called from within `say`, so nothing is advanced here."""
        self._record(envelope, body, signed)

    def _record(self, envelope: Envelope, body: Message, signed: Signed) -> bool:
        """Keep a message; False when it must wait for the Start. Raises: PeerError, and nothing is kept."""
        if isinstance(body, Shares | Have | Start):
            self.starting.check(envelope, body, self._check)
        elif not self.starting.started and not isinstance(body, Leave):
            earlier = [held for known, _, held in self._early if known.sender == envelope.sender]
            if envelope.sender in self.terms.roster and len(earlier) < EARLY_MESSAGES and signed not in earlier:
                self._early.append((envelope, body, signed))
            return False
        self.tally.record(envelope, body, signed, self.agreeing.leader)
        self.starting.take(envelope, body, signed)
        if isinstance(body, Reassign | Propose):
            self.agreeing.heard(body)
        return True

    def _begin(self) -> None:
        """The set that starts is known: who is not in it is out, as if gone before it owned anything."""
        started = self.starting.started
        self.tally.begin(started, start_hash(self.terms.rid, started, self.terms.roster))
        left_out = frozenset(self.terms.roster) - started
        self.left |= left_out
        self.owners.gone |= left_out
        self.agreeing.gone_before = self.owners.gone
        self.clocks.have = math.inf if self.starting.secure is not None else self.clocks.have
        if self.starting.secure is not None:
            self.out.append(fx.Note("round.started", None, f"{len(started)} peers mask with one another"))
        if self.terms.me not in started:
            self.close("the round started without this peer")

    @property
    def view_order(self) -> tuple[bytes, ...]:
        """Who may propose, by view."""
        return self.agreeing.order

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
            self.hauling.lost(peer)
            self.clocks.links[peer] = now + RELINK_SECONDS
            self._advance(now)

    def relinked(self, peer: bytes, now: float) -> None:
        self.linked.add(peer)
        self.clocks.links.pop(peer, None)
        self._advance(now)

    def refused_bulk(self, kind: str, to: bytes, chunk: int, now: float) -> None:
        """The receiver did not expect it yet: try again a little later."""
        self.hauling.refused(kind, to, chunk, now)

    def piece(self, sender: bytes, chunk: int, hash_: bytes, now: float) -> None:
        """All words of a piece arrived. Raises Refused when they are not what its Manifest says."""
        self.tally.hold_piece(sender, chunk, hash_)
        self._advance(now)

    def combined(self, chunk: int, hash_: bytes, now: float) -> None:
        """I summed a chunk over U."""
        self.hauling.combined(chunk)
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
        return min(self.clocks.next(), self.hauling.wake, self.starting.wake) if not self.closed else math.inf

    @property
    def closed(self) -> bool:
        return self.phase is Phase.CLOSED

    @property
    def wants_update(self) -> bool:
        """Whether a Manifest of mine would still count."""
        undecided = self.tally.consented is None and self.tally.opened is None
        return self.phase is Phase.ANSWERED and bool(self.tally.started) and undecided

    def masks(self) -> Masks | None:
        """What hides my update; None for `mean`."""
        return self.starting.secure.masks() if self.starting.secure is not None else None

    @property
    def finishing(self) -> bool:
        """Whether the new state is about to be made here: no need to fetch it from those that were faster."""
        return self.phase is Phase.OPENED and (self._applying or not self._moved)

    @property
    def spent(self) -> bool:
        return self.terms.me in self.tally.manifests

    def expects(self, kind: str, sender: bytes, chunk: int, size: int) -> bool:
        """Whether bulk with this header is to be received; nothing else may take memory."""
        return self.phase is not Phase.CLOSED and self.hauling.expects(kind, sender, chunk, size)

    def _out(self, peer: bytes) -> bool:
        """Left, or without a link for longer than it may take to come back."""
        unreachable = peer != self.terms.me and peer not in self.linked and peer not in self.clocks.links
        return peer in self.left or unreachable

    def _advance(self, now: float) -> None:
        if not self.closed:
            self._run_clocks(now)
        for step in (self._start, self._haul, self._agree, self._open, self._unmask, self._share_sums):
            if not self.closed and (self.starting.started or step == self._start):
                step(now)

    def _start(self, now: float) -> None:
        """Wait for the Start, then take up what came before it."""
        if not self.tally.started:
            self.starting.advance(self.alive(), self._say, now)
        if self.starting.started and not self.tally.started:
            self._begin()
            early, self._early = self._early, []
            for entry in early:
                if not self.closed:
                    self._take_up(*entry)

    def _take_up(self, envelope: Envelope, body: Message, signed: Signed) -> None:
        try:
            self._record(envelope, body, signed)
        except PeerError as error:
            self.out.append(fx.Note("message.refused", error.peer, error.why))

    def _haul(self, now: float) -> None:
        self.hauling.send_pieces()
        self.hauling.send_receipts(straggled=self.agreeing.straggled)

    def _run_clocks(self, now: float) -> None:
        clocks, terms = self.clocks, self.terms
        if now >= clocks.have:
            clocks.have = math.inf
            self.left |= set(terms.roster) - self.tally.present
            if not self.starting.started:
                return self.close("nobody started the round in time")
        for peer in [p for p, at in clocks.links.items() if now >= at]:
            del clocks.links[peer]
        self.hauling.run_clock(now)
        if len(self.tally.manifests) >= terms.threshold and clocks.consents == math.inf and self.tally.opened is None:
            clocks.straggle = now + terms.straggle + terms.bulk
            clocks.view = clocks.straggle + VIEW_SECONDS
            clocks.consents = clocks.straggle + VIEW_SECONDS * (2**VIEWS - 1)
        return self._run_deadlines(now)

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
            self.agreeing.straggled = True
        if self.tally.opened is None and now >= clocks.view:
            more = self.agreeing.next_view()
            clocks.view = now + VIEW_SECONDS * 2.0**self.agreeing.view if more else math.inf
        if self.tally.opened is not None and self.phase is not Phase.SIGNED:
            self._skip_lost_owners()
            if now >= clocks.move:
                self._move_chunks(now)
        return None

    def _agree(self, now: float) -> None:
        self.agreeing.lead()
        if self.agreeing.follow() and self.phase is Phase.SHARED:
            self.phase = Phase.CONSENTED

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

    def _unmask(self, now: float) -> None:
        """Show my shares of the one sum I consented to, once t peers have: exactly once, and for nothing else."""
        secure, tally = self.starting.secure, self.tally
        if secure is None or self._unmasked or tally.opened is None or tally.opened != tally.consented:
            return
        assert tally.consented_on is not None
        self._unmasked = True
        shares = secure.shares_for(tally.offered[tally.opened])
        consents = tuple(tally.consents[tally.opened].values())
        self._say(Unmask(tally.opened, shares, tally.consented_on, consents), 0)

    def _share_sums(self, now: float) -> None:
        included, secure = self.tally.offered.get(self.tally.opened or b""), self.starting.secure
        if self.terms.witness and (said := self.tally.disputed()):
            self.out.extend(fx.Note("sum.disputed", peer, f"signed {hash_.hex()} as a sum") for peer, hash_ in said)
            return self.close("two peers signed different sums of one chunk: one of them lies")
        if included is None:
            return None
        if secure is not None and self._opening is None and not self._find_opening(secure, included):
            return None
        return self.hauling.share_sums(included, self._opening)

    def _find_opening(self, secure: SecureSum, included: frozenset[bytes]) -> bool:
        """What t peers have shown opens the sum; a dealer whose shares, all of them, do not is named."""
        for peer, unmask in self.tally.unmasks.items():
            if unmask.uh == self.tally.opened:
                secure.show(peer, unmask.shares)
        if secure.can_open:
            try:
                self._opening = secure.opening(included)
            except Refused as error:
                if self.tally.unmasks.keys() >= {*self.alive()} - {
                    self.terms.me
                }:  # else true shares may be on their way
                    self.out.append(fx.Note("dealer.exposed", error.peer, error.why))
                    self.close(f"the sum cannot be opened: {error.why}")
        return self._opening is not None

    def _move_chunks(self, now: float) -> None:
        """A chunk without its Sum goes to the next owner in order, also from an owner that is linked but silent."""
        self._moved, self.clocks.move = True, now + MOVE_SECONDS + self.terms.bulk
        for chunk in self.owners.chunks:
            if not self.tally.settled(chunk):
                self.owners.move(chunk)

    def _skip_lost_owners(self) -> None:
        """After t Consents no leader is needed: nobody waits for an owner that is out."""
        for chunk in self.owners.chunks:
            while not self.tally.settled(chunk) and self._out(self.owners.current(chunk)) and self.owners.move(chunk):
                pass
