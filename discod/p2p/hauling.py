"""The bulk of one attempt: whose pieces go where, which receipts are due, which chunks are to be summed and sent.

i -> owner(c)    piece c, and the owner's own piece to the next in order: the safety copy
owner -> all     Receipt, when all pieces of a chunk are here, or their time is over
owner -> all     the words of a sum, after its Sum

What is on its way is remembered, so that it is sent once on a link, and again on a new one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from discod.masks import Masks
from discod.p2p import effects as fx
from discod.p2p.owners import Owners
from discod.p2p.tally import Tally
from discod.p2p.terms import RESEND_SECONDS, Terms
from discod.wire.rounds import Message, Receipt

Say = Callable[[Message, int], None]


class Hauling:
    """See the module; `out` collects effects, `is_out` tells who is gone, `linked` is the attempt's own set."""

    def __init__(
        self,
        terms: Terms,
        owners: Owners,
        tally: Tally,
        linked: set[bytes],
        out: list[fx.Effect],
        say: Say,
        is_out: Callable[[bytes], bool],
    ) -> None:
        self._terms, self._owners, self._tally, self._linked = terms, owners, tally, linked
        self._out, self._say, self._is_out = out, say, is_out
        self.wake = math.inf  # when what was refused is sent again
        self._sent: set[tuple[str, bytes, int]] = set()  # bulk on its way or there: (piece | sum, to, chunk)
        self._receipt_slots: dict[int, int] = {}
        self._receipted: dict[int, frozenset[bytes]] = {}
        self._combining: set[int] = set()
        self._summed: set[int] = set()  # chunks I combined myself

    def lost(self, peer: bytes) -> None:
        """A link is gone, and what was on its way with it."""
        self._sent = {key for key in self._sent if key[1] != peer}

    def refused(self, kind: str, to: bytes, chunk: int, now: float) -> None:
        """The receiver did not expect it yet: try again a little later."""
        self._sent.discard((kind, to, chunk))
        self.wake = min(self.wake, now + RESEND_SECONDS)

    def combined(self, chunk: int) -> None:
        """I summed a chunk."""
        self._summed.add(chunk)

    def expects(self, kind: str, sender: bytes, chunk: int, size: int) -> bool:
        """Whether bulk with this header is to be received; nothing else may take memory."""
        if not 0 <= chunk < len(self._terms.sizes) or not size or size != 4 * self._terms.sizes[chunk]:
            return False
        if kind == "sum":
            return self._tally.wants_sum(sender, chunk)
        return kind == "piece" and self._tally.wants_piece(sender, chunk) and self._holds(chunk, sender)

    def _holds(self, chunk: int, sender: bytes) -> bool:
        """Whether I may be asked to hold this piece: as its owner, for the safety copy, or as the next in order."""
        me, owners = self._terms.me, self._owners
        if me == owners.current(chunk):
            return True
        any_of_them = owners.witness or self._tally.opened is not None
        return me == owners.current(chunk, 1) and (any_of_them or sender == owners.current(chunk))

    def run_clock(self, now: float) -> None:
        """What was refused may be sent again."""
        if now >= self.wake:
            self.wake = math.inf

    def send_pieces(self) -> None:
        """My pieces, to whoever owns or keeps them by now; none of an update that is not in the sum."""
        tally, me = self._tally, self._terms.me
        if me not in tally.manifests or self.wake < math.inf:
            return
        if tally.opened and me not in tally.offered.get(tally.opened, self._terms.roster):
            return
        for chunk in self._owners.chunks:
            if not tally.settled(chunk):
                for receiver in self._owners.receivers(chunk, me):
                    self._send("piece", receiver, chunk)

    def _send(self, kind: str, to: bytes, chunk: int) -> None:
        key = (kind, to, chunk)
        ready = to in self._linked and to in self._tally.present and to not in self._tally.left
        if to != self._terms.me and ready and key not in self._sent:
            self._sent.add(key)
            send = fx.SendPiece if kind == "piece" else fx.SendSum
            self._out.append(send(to, self._terms.rid, chunk))

    def send_receipts(self, *, straggled: bool) -> None:
        """What I hold of others, once all of it is here or the stragglers have had their time."""
        for chunk, held in self._tally.held.items():
            theirs = frozenset(held) - {self._terms.me}
            if not theirs or theirs == self._receipted.get(chunk):
                continue
            if not (straggled or self._all_pieces(chunk, theirs)):
                continue
            slot = self._receipt_slots[chunk] = self._receipt_slots.get(chunk, chunk << 16) + 1
            self._receipted[chunk] = theirs
            pieces = tuple((peer, self._tally.manifests[peer][0]) for peer in sorted(theirs))
            self._say(Receipt(chunk, pieces), slot)

    def _all_pieces(self, chunk: int, theirs: frozenset[bytes]) -> bool:
        """Whether all I wait for under this chunk is here; a safety copy comes alone and is receipted at once."""
        me = self._terms.me
        if me != self._owners.current(chunk) and not (self._owners.witness and me == self._owners.current(chunk, 1)):
            return True
        return all(p in theirs or p == me or self._is_out(p) for p in self._terms.roster)

    def share_sums(self, included: frozenset[bytes], opening: Masks | None) -> None:
        """Sum the chunks I own over exactly `included`, take `opening` off them, and send what is summed."""
        terms = self._terms
        for chunk in self._owners.chunks:
            due = chunk not in self._combining and terms.me in self._owners.summers(chunk)
            if due and included <= self._tally.pieces_of(chunk):
                self._combining.add(chunk)
                ordered = tuple(p for p in terms.roster if p in included)
                self._out.append(fx.Combine(terms.rid, chunk, ordered, opening))
            mine = chunk in self._summed and terms.me in self._owners.so_far(chunk)
            if mine and self.wake == math.inf:
                for peer in terms.roster:
                    self._send("sum", peer, chunk)
