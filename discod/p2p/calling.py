"""From Adverts to a roster: this peer's Advert, the Rosters it is offered, the one it calls itself.

One Advert enters one roster, ever: a peer answers the first valid Roster that holds its Advert, and makes a new Advert
for any other. Two rosters with one Advert would open a victim's update with a single colluder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

from discod.errors import Refused
from discod.p2p.certificate import NONCE_BYTES, era_of, open_adverts, rid_of, threshold_of
from discod.p2p.chain import Chain
from discod.p2p.election import LEADER_STEP_SECONDS, Election, Held
from discod.p2p.rules import Rules
from discod.p2p.secagg import Secrets, SecureSum, check_keys
from discod.p2p.terms import LEAST_STRAGGLE_SECONDS, Terms
from discod.p2p.voice import Voice
from discod.ring import chunk_bounds
from discod.wire.rounds import Advert, Envelope, Leave, Roster, Signed, message_hash, parse_body

READVERT_SECONDS = (0.5, 2.0)  # jitter after a lost attempt
LEAST_SECURE = 3  # of two, each knows the other's update from the sum
PAUSE_SECONDS = (5.0, 600.0)  # after three Manifests came to nothing; doubled each time


@dataclass(frozen=True, slots=True)
class Call:
    """A verified Roster."""

    rid: bytes
    roster: tuple[bytes, ...]  # sorted
    threshold: int
    sender: bytes
    message: Roster
    signed: Signed
    secrets: Secrets | None = None  # of my Advert in it, once I have entered (secure)


@dataclass(slots=True)
class Mine:
    """What this peer is doing."""

    training: bool = False
    since: float = 0.0  # start of the local training
    took: float = 0.0  # seconds of the last one
    ready: bool = False  # an update waits to be contributed
    advert: Held | None = None  # the current one, in no roster yet
    secrets: Secrets | None = None  # what it promises
    earliest: float = -math.inf  # no Advert before this
    pause: float = PAUSE_SECONDS[0]
    lost_under: dict[bytes, int] = field(default_factory=dict)


class Calling:
    """Everything before the attempt."""

    def __init__(self, rules: Rules, chain: Chain, voice: Voice, entropy: Callable[[int], bytes]) -> None:
        self.election = Election(voice.keyring.me)
        self.mine = Mine()
        self.wake = math.inf
        self._rules, self._chain, self._voice, self._entropy = rules, chain, voice, entropy
        self._keyring = voice.keyring
        self._calls: list[Call] = []

    # -- facts --------------------------------------------------------------------------------------------------------

    def on_advert(self, envelope: Envelope, advert: Advert, signed: Signed) -> bool:
        """Keep it; whether it is a new one for my base."""
        era = era_of(self._rules.scope, advert.round, advert.base)
        if envelope.slot != advert.seq or envelope.rid != era or len(advert.nonce) != NONCE_BYTES:
            raise Refused(envelope.sender, "an advert that does not fit its era")
        known = {p: h.advert for p, h in self.election.adverts.items() if h.era == era}
        self._check_keys(known | {envelope.sender: advert}, envelope.sender)
        return self.election.record_advert(envelope.sender, Held(signed, era, advert)) and era == self.era()

    def on_roster(self, envelope: Envelope, body: Roster, signed: Signed) -> Call:
        """Verify a Roster and take its Adverts over, as if they had been sent."""
        chain, me = self._chain, self._keyring.me
        if not body.adverts or self._keyring.check(body.adverts[0]).rid != self.era():
            raise Refused(envelope.sender, "a roster for another base")
        roster = open_adverts(body.adverts, self._rules.scope, chain.base.round, chain.base_hash, self._keyring)
        self._check_keys(dict(zip(roster, map(self._advert_of, body.adverts), strict=True)), *roster)
        call = self._call(roster, envelope.sender, body, signed)
        if envelope.rid != call.rid:
            raise Refused(envelope.sender, "a roster under another id: the threshold or the adverts differ")
        adverts = [Held(item, self.era(), self._advert_of(item)) for item in body.adverts]
        for held, peer in zip(adverts, roster, strict=True):
            self.election.is_news(peer, held)  # raises before anything is kept
        for held, peer in zip(adverts, roster, strict=True):
            if peer != me:
                self.election.record_advert(peer, held)
            if me not in roster:
                self.election.used.add(held.hash)
        return call

    def _advert_of(self, signed: Signed) -> Advert:
        return cast(Advert, parse_body(self._keyring.check(signed)))

    def _check_keys(self, adverts: Mapping[bytes, Advert], *peers: bytes) -> None:
        """Raises: Refused for round keys of `peers` that are missing, out of place, unusable or another peer's."""
        if self._rules.secure:
            check_keys({peer: advert.keys for peer, advert in adverts.items()}, peers)
        elif any(adverts[peer].keys is not None for peer in peers):
            raise Refused(peers[0], "an advert with keys, for a task without a secure sum")

    def offered(self, call: Call) -> None:
        """Judge it when my own grace has ended."""
        if self._keyring.me in call.roster and all(known.rid != call.rid for known in self._calls):
            self._calls.append(call)

    def ended(self, leader: bytes, now: float) -> None:
        """The attempt under this leader came to nothing: advert anew, a little later."""
        mine, (low, high) = self.mine, READVERT_SECONDS
        mine.lost_under[leader] = mine.lost_under.get(leader, 0) + 1
        jitter = low + (high - low) * int.from_bytes(self._entropy(4), "little") / 2**32
        mine.earliest = max(mine.earliest, now + jitter)

    def pause(self, now: float) -> float:
        """Three updates came to nothing under this base: a longer pause each time."""
        mine, pause = self.mine, self.mine.pause
        mine.earliest = max(mine.earliest, now + pause)
        mine.pause = min(2 * pause, PAUSE_SECONDS[1])
        return pause

    def rebased(self, keep_update: bool) -> None:
        """Another base, another era: everything said for the old one is void."""
        mine = self.mine
        self._calls.clear()
        self.election.used.clear()
        self.election.quorum_since = math.inf
        mine.advert, mine.earliest, mine.pause, mine.lost_under = None, -math.inf, PAUSE_SECONDS[0], {}
        mine.ready = mine.ready and keep_update

    # -- decisions ----------------------------------------------------------------------------------------------------

    def advance(self, now: float) -> Call | None:
        """Advert when it is time; the Roster to enter now, answered or called by me."""
        self.wake = math.inf
        self._advertise(now)
        return self._answer(now) or self._lead(now)

    def refuse_all(self) -> None:
        """Busy: say so at once to those who wait for me."""
        while self._calls:
            self._refuse(self._calls[0], "busy, or my advert is used")

    def era(self) -> bytes:
        return era_of(self._rules.scope, self._chain.base.round, self._chain.base_hash)

    def quorum(self) -> int:
        return max(self._rules.min_peers, self._threshold(0), LEAST_SECURE if self._rules.secure else 0)

    def _threshold(self, peers: int) -> int:
        return threshold_of(peers, len(self._keyring.trainers()) if self._rules.majority else 0)

    def _call(self, roster: tuple[bytes, ...], sender: bytes, message: Roster, signed: Signed) -> Call:
        threshold = self._threshold(len(roster))
        return Call(rid_of(self.era(), message.adverts, threshold), roster, threshold, sender, message, signed)

    def _advertise(self, now: float) -> None:
        mine, base = self.mine, self._chain.base
        if not mine.training or mine.advert is not None:
            return
        if now < mine.earliest:
            self.wake = min(self.wake, mine.earliest)
            return
        seq, nonce = self._voice.next_seq(), self._entropy(NONCE_BYTES)
        mine.secrets = Secrets(self._entropy) if self._rules.secure else None
        keys = mine.secrets.public if mine.secrets is not None else None
        lost = tuple(sorted(mine.lost_under.items()))
        advert = Advert(seq, nonce, base.round, self._chain.base_hash, self._keyring.members_digest(), lost, keys)
        mine.advert = Held(self._voice.sign(advert, self.era(), seq), self.era(), advert)
        self.election.adverts[self._keyring.me] = mine.advert
        self._voice.send_all(sorted(self._voice.linked), mine.advert.signed)

    def valid(self, now: float) -> dict[bytes, Held]:
        """Whose Adverts count now, mine among them."""
        return self.election.valid(self.era(), self._keyring.members_digest(), self._keyring.trainers(), now)

    def _grace_end(self, valid: dict[bytes, Held], now: float) -> float:
        return self.election.grace_end(valid, self._voice.linked, self.quorum(), now)

    def _answer(self, now: float) -> Call | None:
        for call in list(self._calls):
            if self.mine.advert is None or self.mine.advert.signed not in call.message.adverts:
                self._refuse(call, "busy, or my advert is used")
                continue
            valid = self.valid(now)
            if now < (end := self._grace_end(valid, now)):
                self.wake = min(self.wake, end)
            elif why := self._objection(call, valid, now):
                self._voice.note("roster.refused", call.sender, why)
                self._refuse(call, why)
            else:
                self._calls.remove(call)
                return self._taken(call)
        return None

    def _refuse(self, call: Call, why: str) -> None:
        self._calls.remove(call)
        self._voice.send_all(call.roster, self._voice.sign(Leave(why), call.rid, 0))

    def _taken(self, call: Call) -> Call:
        """From here on my Advert and theirs belong to this roster."""
        self.election.used.update(map(message_hash, call.message.adverts))  # not newer ones, sent while I waited
        self.election.quorum_since = math.inf  # the next quorum has a grace, and ranks, of its own
        secrets, self.mine.advert, self.mine.secrets = self.mine.secrets, None, None
        return replace(call, secrets=secrets)

    def terms_of(self, call: Call) -> Terms:
        """What the attempt of a roster is about."""
        rules, sizes = self._rules, chunk_bounds(self._rules.words, len(call.roster))
        straggle = rules.straggle or max(LEAST_STRAGGLE_SECONDS, self.mine.took / 2)
        words = tuple(stop - start for start, stop in sizes)
        me, bulk, witness = self._keyring.me, rules.bulk, rules.witness
        return Terms(call.rid, me, call.roster, call.sender, call.threshold, words, straggle, bulk, witness)

    def sum_for(self, call: Call) -> SecureSum | None:
        """This peer's side of the secure sum of a roster that it has entered; None for `mean`."""
        if call.secrets is None:
            return None
        keys = {p: self._advert_of(a).keys for p, a in zip(call.roster, call.message.adverts, strict=True)}
        promised = {peer: theirs for peer, theirs in keys.items() if theirs is not None}  # all: they were checked
        return SecureSum(call.rid, self._keyring.me, call.roster, call.threshold, call.secrets, promised, self._entropy)

    def _objection(self, call: Call, valid: dict[bytes, Held], now: float) -> str:
        if len(call.roster) < self.quorum():
            return f"a roster of {len(call.roster)}, at least {self.quorum()} are needed"
        if call.sender not in call.roster:
            return "called by a peer that is not in it"
        if not self._keyring.trainers().issuperset(call.roster):
            return "a roster with a peer that is no trainer"
        if any(self.election.banned.get(peer, -math.inf) > now for peer in call.roster):
            return "a roster with a peer that signed two different messages for one slot"
        if not self.election.fair(call.roster, valid, self._voice.linked):
            return "a roster without most of the peers that are ready"
        return ""

    def _lead(self, now: float) -> Call | None:
        if self.mine.advert is None or self._calls:
            return None
        valid = self.valid(now)
        if (end := self._grace_end(valid, now)) == math.inf:
            return None
        end += LEADER_STEP_SECONDS * self.election.rank(self.era(), valid, self._chain.last_roster)
        if now < end:
            self.wake = min(self.wake, end)
            return None
        roster = self.election.clique(self.election.with_own_keys(valid), self._voice.linked)
        if self._keyring.me not in roster or len(roster) < self.quorum():
            return None
        message = Roster(tuple(valid[peer].signed for peer in roster))
        rid = rid_of(self.era(), message.adverts, self._threshold(len(roster)))
        signed = self._voice.sign(message, rid, 0)
        self._voice.send_all(sorted(valid), signed)  # also to those left out: they learn whose Adverts are used
        return self._taken(self._call(roster, self._keyring.me, message, signed))
