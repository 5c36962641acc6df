"""Agreeing on the one set U of an attempt: views, proposals, consents.

leader -> all   Reassign         owners that are gone, or silent: their chunks move
leader -> all   Propose{view,U}  once whose pieces are safe is known
i -> all        View{v + 1}      the leader of view v has had its time
i -> all        Consent{uh}      once per rid, ever

View v belongs to the v-th of the view order, the roster's leader first. A Propose in a later view must repeat the U
that most have consented to, so that no second set can reach t Consents.
"""

from __future__ import annotations

from collections.abc import Callable

from discod.p2p.certificate import bitmap, from_bitmap
from discod.p2p.owners import Owners
from discod.p2p.safety import most_consented, proposal, silent_owners, sum_named_by, whole_peers
from discod.p2p.tally import Tally
from discod.p2p.terms import VIEWS, Terms
from discod.wire.rounds import Consent, Message, Propose, Reassign, View

Say = Callable[[Message, int], None]


class Agreeing:
    """See the module. `is_out` tells who has left or is out of reach."""

    def __init__(self, terms: Terms, owners: Owners, tally: Tally, say: Say, is_out: Callable[[bytes], bool]) -> None:
        self._terms, self._owners, self._tally, self._say, self._is_out = terms, owners, tally, say, is_out
        self.order = (terms.leader, *(p for p in owners.order if p != terms.leader))
        self.view = 0
        self.straggled = False  # the others have had their time: go on with what is here
        self.gone_before: frozenset[bytes] = frozenset()  # this view: owners since then have had no time yet
        self._proposed = -1  # last view this peer proposed in
        self._reassigned = 0

    def leader(self, view: int) -> bytes:
        """Who may propose in a view."""
        return self.order[view % len(self.order)]

    def heard(self, body: Propose | Reassign) -> None:
        """A leader of this or a later view names owners that are gone; as long as enough are left, they are."""
        gone = self._owners.gone | from_bitmap(body.gone, self._terms.roster)
        if body.view >= self.view and len(self._terms.roster) - len(gone) >= self._terms.threshold:
            self._owners.gone = gone

    def next_view(self) -> bool:
        """Give up on this view's leader; False when there is no further view."""
        if self.view + 1 == VIEWS:
            return False
        self.view += 1
        self.gone_before = self._owners.gone
        consent, propose = self._tally.own_consent
        self._say(View(self.view, consent, propose), self.view)
        return True

    def lead(self) -> None:
        """Propose a U when this is my view and the facts allow it."""
        terms, tally = self._terms, self._tally
        if terms.me != self.leader(self.view) or tally.opened or self._proposed >= self.view:
            return
        forced: frozenset[bytes] | None = None
        if self.view:
            views = tally.views.get(self.view, {})
            if len(views) < terms.threshold:
                return
            forced = most_consented(terms, tally.start, tally, views.values())
        self._spread_gone()
        whole = whole_peers(self._owners, tally, terms.roster, self._owners.gone)
        if forced is None and not (self.straggled or all(p in whole or self._is_out(p) for p in terms.roster)):
            return
        included = whole if forced is None else forced
        if len(included) >= terms.threshold and included <= whole:
            self._proposed = self.view
            self._say(proposal(terms, tally, self._owners.gone, self.view, included), self.view)

    def _spread_gone(self) -> None:
        """As the leader: name the owners that are out, or silent after the straggle, so that their chunks move."""
        terms, owners = self._terms, self._owners
        gone = owners.gone | {p for p in terms.roster if self._is_out(p)}
        if self.straggled:
            gone |= silent_owners(owners, self._tally, terms, self.gone_before)
        if gone != owners.gone and len(terms.roster) - len(gone) >= terms.threshold:
            owners.gone = gone
            self._say(Reassign(self.view, bitmap(gone, terms.roster)), self.view << 16 | self._reassigned)
            self._reassigned += 1

    def follow(self) -> bool:
        """Consent to the latest proposal, once per rid, if everything it rests on is here; whether I did now."""
        terms, tally = self._terms, self._tally
        if (offer := tally.latest_offer(self.view)) is None:
            return False
        propose, signed = offer
        if (named := sum_named_by(terms, tally.start, tally, propose)) is None:
            return False
        uh, included = named
        tally.offered[uh] = included
        gone = from_bitmap(propose.gone, terms.roster)
        whole = included <= whole_peers(self._owners, tally, terms.roster, gone)
        if tally.consented is not None or not (whole or tally.count(uh) >= terms.threshold):
            return False
        self.view = max(self.view, propose.view)
        tally.consented, tally.consented_on = uh, signed
        self._say(Consent(uh), 0)
        return True
