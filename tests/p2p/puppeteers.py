"""Puppets (puppets.py) of a secure sum: each holds real keys, deals real shares, and can open what it is shown."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable
from typing import cast

from discod.p2p.certificate import bitmap
from discod.p2p.secagg import Secrets, SecureSum
from discod.p2p.terms import Phase
from discod.wire.rounds import (
    Advert,
    Consent,
    Have,
    RoundKeys,
    Shares,
    Signed,
    Start,
    Unmask,
    parse_body,
    parse_envelope,
)
from tests.p2p.puppets import Puppets
from tests.p2p.table import sign


class Puppeteers(Puppets):
    """See the module. `enter` goes on to the Start; `share` of Puppets then works as for `mean`."""

    def __init__(self, peers: int = 4, rank: int = 0, min_peers: int = 3) -> None:
        self.entropy = random.Random(7).randbytes
        self.secrets: dict[bytes, Secrets] = {}
        self.sums: dict[bytes, SecureSum] = {}
        super().__init__(peers, rank, min_peers, secure=True)

    def keys(self, peer: bytes) -> RoundKeys:
        self.secrets[peer] = Secrets(self.entropy)
        return self.secrets[peer].public

    def call(self, nonce: int = 0) -> None:
        """Everybody has adverted, and I am in the roster."""
        self.ready(nonce=nonce)
        if self.machine.attempt is None:
            self.hear(self.roster(self.everybody))
        terms = self.attempt.terms
        adverts = {peer: cast(Advert, parse_body(parse_envelope(self.adverts[peer]))) for peer in terms.roster}
        keys = {peer: advert.keys for peer, advert in adverts.items() if advert.keys is not None}
        for peer in self.others:
            shape = (terms.rid, peer, terms.roster, terms.threshold)
            self.sums[peer] = SecureSum(*shape, self.secrets[peer], keys, self.entropy)

    def deal(self) -> None:
        """Everybody's shares reach everybody."""
        for dealer in self.others:
            for receiver, box in self.sums[dealer].boxes():
                if receiver == self.me:
                    self.say(dealer, Shares(box), self.everybody.index(self.me))
                else:
                    self.sums[receiver].take_box(dealer, box)
        for signed in self.sent(Shares):
            envelope = parse_envelope(signed)
            receiver = self.everybody[envelope.slot]
            self.sums[receiver].take_box(self.me, cast(Shares, parse_body(envelope)).box)

    def have(self, peer: bytes, holds: Collection[bytes] | None = None, slot: int = 0) -> Signed:
        """Made, not heard."""
        return sign(peer, Have(bitmap(self.everybody if holds is None else holds, self.everybody)), self.rid, slot)

    def start(self, started: Collection[bytes] | None = None) -> Start:
        """With the Haves of all it names, mine as I have said it."""
        chosen = [peer for peer in self.everybody if started is None or peer in started]
        haves = [self.sent(Have)[-1] if peer == self.me else self.have(peer) for peer in chosen]
        return Start(bitmap(chosen, self.everybody), tuple(haves))

    def begin(self, started: Collection[bytes] | None = None) -> None:
        """Everybody says a Have, and the leader (I, when that is me) the Start."""
        for peer in self.others:
            self.hear(self.have(peer))
        if self.leader != self.me:
            self.say(self.leader, self.start(started))
        for peer, side in self.sums.items():
            if started is None or peer in started:
                side.begin(self.everybody if started is None else started)

    def enter(self, nonce: int = 0) -> None:
        self.call(nonce)
        self.deal()
        self.begin()

    def consents(self, peers: Iterable[bytes], uh: bytes) -> tuple[Signed, ...]:
        return tuple(sign(peer, Consent(uh), self.rid) for peer in peers)

    def unmask(self, peer: bytes, included: Collection[bytes], consenting: Iterable[bytes] | None = None) -> Unmask:
        """What an honest peer would say once these (all) have consented to a sum over `included`."""
        uh = self.uh(included)
        agreed = self.consents(self.everybody if consenting is None else consenting, uh)
        offer = sign(self.leader, self.propose(0, included), self.rid)
        return Unmask(uh, self.sums[peer].shares_for(included), offer, agreed)

    def unmasked(self) -> list[Unmask]:
        return [body for s in self.sent(Unmask) if isinstance(body := parse_body(parse_envelope(s)), Unmask)]


def entered(rank: int = 1, peers: int = 4) -> Puppeteers:
    p = Puppeteers(peers, rank)
    p.enter()
    assert p.attempt.tally.started == {*p.everybody}
    return p


def called(rank: int = 1, peers: int = 4) -> Puppeteers:
    """All shares are dealt; there is no Start."""
    p = Puppeteers(peers, rank)
    p.call()
    p.deal()
    return p


def proposed(rank: int = 1, peers: int = 4) -> Puppeteers:
    """All have shared; the leader has proposed the sum over all, and I have consented."""
    p = entered(rank, peers)
    p.share()
    p.say(p.leader, p.propose(0, p.everybody))
    assert p.attempt.phase is Phase.CONSENTED
    return p


def opened(rank: int = 1, peers: int = 4) -> Puppeteers:
    """All have consented as well."""
    p = proposed(rank, peers)
    for signed in p.consents(p.others, p.uh(p.everybody)):
        p.hear(signed)
    assert p.attempt.phase is Phase.OPENED
    return p
