"""All sides of one secure sum, with real keys: the peers of a roster, their boxes delivered, without any machine."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence

from discod.p2p.certificate import threshold_of
from discod.p2p.secagg import Secrets, SecureSum
from discod.wire.codec import digest
from discod.wire.rounds import RoundKeys
from tests.p2p.tokens import peer_id

RID = digest("test/secure round")
Entropy = Callable[[int], bytes]


class Dealers:
    """`peers` of them; everybody holds the shares of everybody. `make` builds one side (SecureSum)."""

    def __init__(
        self, peers: int, seed: int = 0, rid: bytes = RID, make: type[SecureSum] = SecureSum, deal: bool = True
    ) -> None:
        self.entropy: Entropy = random.Random(seed).randbytes
        self.rid, self.threshold = rid, threshold_of(peers)
        self.roster = tuple(sorted(peer_id(n) for n in range(peers)))
        self.secrets = {peer: Secrets(self.entropy) for peer in self.roster}
        self.keys: dict[bytes, RoundKeys] = {peer: secrets.public for peer, secrets in self.secrets.items()}
        self.sums = {peer: self.side(peer, make) for peer in self.roster}
        if deal:
            self.deal()

    def side(self, peer: bytes, make: type[SecureSum] = SecureSum) -> SecureSum:
        return make(self.rid, peer, self.roster, self.threshold, self.secrets[peer], self.keys, self.entropy)

    def deal(self) -> None:
        for dealer, side in self.sums.items():
            for receiver, box in side.boxes():
                self.sums[receiver].take_box(dealer, box)

    def begin(self, started: Collection[bytes] | None = None) -> Sequence[bytes]:
        """These (all) start; their ids in order."""
        chosen = self.roster if started is None else tuple(sorted(started))
        for peer in chosen:
            self.sums[peer].begin(chosen)
        return chosen

    def show(self, to: bytes, included: Collection[bytes], showing: Collection[bytes]) -> SecureSum:
        """What `to` knows once these have shown their shares for a sum over `included`."""
        for peer in showing:
            self.sums[to].show(peer, self.sums[peer].shares_for(included))
        return self.sums[to]
