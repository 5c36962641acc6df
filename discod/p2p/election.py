"""Who can be in the next roster, and who calls it. Facts and pure rules; the round machine decides when.

The leader is the lowest H(era | id) among the holders of valid Adverts that were in the last certified roster (none
there: any), after the rounds lost under each; rank k acts 4 s x k after quorum plus grace. It calls the largest clique
of live links that it finds by dropping the peer with most missing pairs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from discod.errors import Refused
from discod.wire.codec import digest
from discod.wire.rounds import Advert, Links, Signed, message_hash

GRACE_SECONDS = 2.0  # from quorum; ends at once when everybody present has adverted
LEADER_STEP_SECONDS = 4.0
ROSTER_SHARE = (2, 3)  # of the valid Adverts in sight a roster must hold
BAN_SECONDS = 24 * 3600.0  # for the signer of two bodies of one slot


@dataclass(frozen=True, slots=True)
class Held:
    """The latest Advert of a peer."""

    signed: Signed
    era: bytes
    advert: Advert

    @property
    def hash(self) -> bytes:
        return message_hash(self.signed)


@dataclass(slots=True)
class Election:
    """The latest Adverts and Links of everybody, whatever their base."""

    me: bytes
    adverts: dict[bytes, Held] = field(default_factory=dict)
    links: dict[bytes, Links] = field(default_factory=dict)
    used: set[bytes] = field(default_factory=set)  # hashes of Adverts named in a Roster seen
    banned: dict[bytes, float] = field(default_factory=dict)
    quorum_since: float = math.inf

    def is_news(self, peer: bytes, held: Held) -> bool:
        """Whether it is later than the one I hold. Raises Refused on a second, different Advert with one seq."""
        known = self.adverts.get(peer)
        if known is None or known.advert.seq < held.advert.seq:
            return True
        if known.advert.seq == held.advert.seq and known.hash != held.hash:
            raise Refused(peer, "two adverts with one sequence number")
        return False

    def record_advert(self, peer: bytes, held: Held) -> bool:
        """Keep it if it is news, and say so. Raises Refused like `is_news`."""
        if news := self.is_news(peer, held):
            self.adverts[peer] = held
        return news

    def ban(self, peer: bytes, now: float) -> bool:
        """Keep it out of rosters for a day; whether that is news. Nobody bans itself."""
        news = peer != self.me and self.banned.get(peer, -math.inf) <= now
        if news:
            self.banned[peer] = now + BAN_SECONDS
        return news

    def record_links(self, peer: bytes, links: Links) -> bool:
        """Keep it if it is later than the one I hold; whether it also is than the peer's Advert."""
        known = self.links.get(peer)
        if known is not None and known.seq >= links.seq:
            return False
        self.links[peer] = links
        advert = self.adverts.get(peer)  # one from before its Advert comes late: the Roster came another way
        return advert is None or links.seq > advert.advert.seq

    def valid(self, era: bytes, members: bytes, trainers: Collection[bytes], now: float) -> dict[bytes, Held]:
        """Unused latest Adverts of this era by current trainers whose member set is mine."""
        return {
            peer: held
            for peer, held in self.adverts.items()
            if held.era == era
            and held.advert.members == members
            and peer in trainers
            and held.hash not in self.used
            and self.banned.get(peer, -math.inf) <= now
        }

    def grace_end(self, valid: Mapping[bytes, Held], linked: Collection[bytes], quorum: int, now: float) -> float:
        """When a roster may be called or judged; inf while there is no quorum."""
        if len(valid) < quorum or self.me not in valid:
            self.quorum_since = math.inf
            return math.inf
        self.quorum_since = min(self.quorum_since, now)
        waited_for = (p for p in linked if p in self.links and self.links[p].training)
        if all(peer in valid for peer in waited_for):
            return self.quorum_since
        return self.quorum_since + GRACE_SECONDS

    def rank(self, era: bytes, valid: Mapping[bytes, Held], last_roster: Collection[bytes]) -> int:
        """My place among those who may lead; rank k acts k steps after grace."""
        candidates = [p for p in valid if p in last_roster] or list(valid)
        lost = dict.fromkeys(candidates, 0)
        for held in valid.values():
            for leader, rounds in held.advert.lost:
                if leader in lost:
                    lost[leader] += min(rounds, 1000)
        candidates.sort(key=lambda p: (lost[p], digest("discod/leader/1", era, p)))
        return candidates.index(self.me) if self.me in candidates else len(candidates)

    def with_own_keys(self, valid: Mapping[bytes, Held]) -> Mapping[bytes, Held]:
        """Without those who promise a round key that another one promises too: who copied cannot be known."""
        keys = {peer: held.advert.keys for peer, held in valid.items()}
        uses = Counter(key for k in keys.values() if k is not None for key in (k.mask, k.box))
        return {p: held for p, held in valid.items() if (k := keys[p]) is None or uses[k.mask] == uses[k.box] == 1}

    def clique(self, valid: Iterable[bytes], linked: Collection[bytes]) -> tuple[bytes, ...]:
        """The peers of `valid` that are all linked with each other, by greedy removal; sorted."""
        peers = set(valid)
        sees = {p: set(self.links[p].peers) if p in self.links else set() for p in peers}
        sees[self.me] = set(linked)
        while True:
            missing = {p: sum(q != p and (q not in sees[p] or p not in sees[q]) for q in peers) for p in peers}
            worst = max(peers, key=lambda p: (missing[p], p), default=None)
            if worst is None or not missing[worst]:
                return tuple(sorted(peers))
            peers.remove(worst)

    def fair(self, roster: Collection[bytes], valid: Iterable[bytes], linked: Collection[bytes]) -> bool:
        """Whether a roster holds enough of the valid Adverts that I see and am linked with: nobody is packed out."""
        seen = [p for p in valid if p in linked or p == self.me]
        part, whole = ROSTER_SHARE
        return whole * sum(p in roster for p in seen) >= part * len(seen)
