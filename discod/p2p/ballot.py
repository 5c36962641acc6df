"""Counting Dones: t equal ones of a roster certify the new state. A ballot outlives its attempt: late Dones count."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from discod.errors import Refused
from discod.p2p.certificate import Keyring
from discod.p2p.tally import Equivocation
from discod.p2p.terms import Terms
from discod.wire.rounds import Certificate, Done, Envelope, Head, Signed, head_hash

KEPT = 8  # ballots under one base: its attempts that were lost here may still be certified


@dataclass(slots=True)
class Ballot:
    """The Dones of one rid."""

    terms: Terms
    round: int
    parent: bytes
    adverts: tuple[Signed, ...]
    votes: dict[bytes, tuple[bytes, Signed]] = field(default_factory=dict)  # peer -> (state, its Done)
    candidate: Head | None = None  # the state I made
    left: Signed | None = None  # my Leave: one to a rid, ever
    certificate: Certificate | None = None

    @property
    def signed(self) -> bool:
        """Whether my own Done is out."""
        return self.terms.me in self.votes

    def for_state(self, state: bytes) -> dict[bytes, Signed]:
        return {peer: signed for peer, (voted, signed) in self.votes.items() if voted == state}

    def reachable(self, alive: Collection[bytes]) -> bool:
        """Whether my candidate can still be certified by those who have signed it and those who still may."""
        if self.candidate is None:
            return True
        may = {peer for peer in alive if peer not in self.votes}
        return len(may | self.for_state(head_hash(self.candidate)).keys()) >= self.terms.threshold


class Ballots:
    """The ballots of all attempts under the present base, and the last one that led to it."""

    def __init__(self, scope: bytes, keyring: Keyring) -> None:
        self._scope, self._keyring = scope, keyring
        self._ballots: dict[bytes, Ballot] = {}

    def open(self, terms: Terms, base: Head, base_hash: bytes, adverts: tuple[Signed, ...]) -> None:
        self._ballots[terms.rid] = Ballot(terms, base.round + 1, base_hash, adverts)
        while len(self._ballots) > KEPT:
            del self._ballots[next(iter(self._ballots))]

    def knows(self, rid: bytes) -> bool:
        return rid in self._ballots

    def get(self, rid: bytes) -> Ballot:
        return self._ballots[rid]

    def vote(self, envelope: Envelope, body: Done, signed: Signed) -> Certificate | None:
        """Count a Done; returns the certificate when this one completes it.

        Raises:
            Equivocation: its sender has signed another state under this rid.  Refused: it is not in the roster.
        """
        ballot, sender = self._ballots[envelope.rid], envelope.sender
        if sender not in ballot.terms.roster:
            raise Refused(sender, "a Done from outside the roster")
        known = ballot.votes.get(sender)
        if known is not None and known[0] != body.state:
            raise Equivocation(sender, Done.kind, known[1], signed)
        ballot.votes.setdefault(sender, (body.state, signed))
        dones = ballot.for_state(body.state)
        if ballot.certificate is not None or len(dones) < ballot.terms.threshold:
            return None
        ballot.certificate = Certificate(
            ballot.round,
            ballot.parent,
            body.state,
            ballot.adverts,
            ballot.terms.threshold,
            tuple(dones[peer] for peer in sorted(dones)),
        )
        return ballot.certificate

    def missed(self, certificates: Iterable[Certificate]) -> list[Signed]:
        """Of verified certificates the Dones under my own rids that still lack one: votes like any other."""
        lacking = {rid for rid, ballot in self._ballots.items() if ballot.certificate is None}
        dones = (signed for certificate in certificates for signed in certificate.dones)
        return [signed for signed in dones if self._keyring.check(signed).rid in lacking]

    def certified(self, base_hash: bytes) -> tuple[Head, bytes] | None:
        """A certified child of the base whose state I made myself: (head, rid)."""
        for rid, ballot in self._ballots.items():
            head, certificate = ballot.candidate, ballot.certificate
            if head is None or certificate is None or ballot.parent != base_hash:
                continue
            if head_hash(head) == certificate.state:
                return head, rid
        return None

    def own_dones(self) -> list[Signed]:
        """My Dones, for a new link: a peer that missed them lacks the certificate."""
        me = self._keyring.me
        return [ballot.votes[me][1] for ballot in self._ballots.values() if me in ballot.votes]

    def keep_only(self, certificate: Certificate) -> None:
        """The base has changed: only the ballot that led to it may still be asked about."""
        self._ballots = {rid: ballot for rid, ballot in self._ballots.items() if ballot.certificate == certificate}
