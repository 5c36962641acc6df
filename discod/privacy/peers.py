"""Peer-level noise: what one peer adds to its whole update, and what an update that leaves costs. Pure.

    z         the task's noise_multiplier, or the smallest with which all rounds cost its epsilon at its delta
    clip      C: an update is made no longer than this, as one vector
    s         the grid: a power of two; words are rint(x s), and noise is added to words, in whole numbers
    reach     C + sqrt(d) / 2s: what zeroing a peer out moves its words by, rounding included, over s
    alone     aggregator mean, a federated node: an update is seen by itself, so it carries the full sigma = z reach
    together  secure: only sums over |U| >= t are opened, and n_C of a roster may take their own noise off. Each of the
              h = t - n_C that are sure to be honest and in U adds sigma / sqrt(h); a sum holds (|U| - n_C) times that

Costs are Gaussian releases in Renyi DP. Two adjacencies: a peer's update is there or is zero (moves by `reach`), and a
row of the peer is there or not, which may turn the update round (moves by twice that). The grid is as fine as an int32
has room for, n s C + 10 sqrt(n) sigma_local s < 2^31, so nothing is clipped after the noise. Kairouz, Liu, Steinke 2021
do the same with discrete Gaussians; ours are rounded, at 2^16 steps or more (docs/security.md, 2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from discod.privacy.accountant import Curve, OutOfRange, epsilon_of, gaussian, noise_for
from discod.privacy.plan import Planned

LEAST_STEPS = 2.0**16  # of the grid in a standard deviation: there a rounded Gaussian is as good as a discrete one
TAIL = 10.0  # standard deviations that a sum of noises stays within
ROOM = 2.0**31  # of an int32
LEAST_NOISE, MOST_NOISE = 0.1, 1000.0  # z: between them the grid of 128 peers is fine enough, and has room


@dataclass(frozen=True)
class PeerNoise:
    """Updates of norm `clip`, `releases` of them, each with noise of `z` times that."""

    z: float
    clip: float
    releases: int
    delta: float

    @property
    def epsilon(self) -> float:
        """What all releases cost, at `delta`: the peer's presence."""
        return epsilon_of(gaussian(self.z, self.releases), self.delta)


def plan_peer_noise(task: Planned) -> PeerNoise | None:
    """The noise of every peer of a task; None when its privacy is not that of peers. Raises: OutOfRange."""
    rule = task.privacy
    if rule.unit != "peer":
        return None
    z = rule.noise_multiplier or noise_for(rule.epsilon, rule.delta, 1.0, task.rounds)
    if not LEAST_NOISE <= z <= MOST_NOISE:
        why = f"noise of {z:g} times the clip is not possible for whole updates"
        raise OutOfRange(why, f"{LEAST_NOISE:g} to {MOST_NOISE:g}: another epsilon, or fewer rounds")
    return PeerNoise(z, rule.clip, task.rounds, rule.delta)


def costs(z: float, releases: int = 1) -> tuple[Curve, Curve]:
    """What releases with noise of `z` times the reach cost: (a row of the peer, the peer)."""
    return gaussian(z / 2, releases), gaussian(z, releases)


@dataclass(frozen=True)
class Portion:
    """The codec and the noise of one contribution: at most `peers` in a sum, `values` parameters, see the module.

    `sure` is h, `colluders` n_C; alone they are 1 and 0, whatever the roster.
    """

    z: float
    clip: float
    values: int
    peers: int
    sure: int = 1
    colluders: int = 0

    @property
    def bound(self) -> float:
        """No word's value is larger: none is clipped by itself."""
        return self.clip

    @property
    def scale(self) -> float:
        """s. All of a roster compute the same. Raises: OutOfRange."""
        scale = 2.0 ** math.floor(math.log2(ROOM / self._span(self.clip)))
        while self._span(self._reach(scale)) * scale >= ROOM:
            scale /= 2
        if self._deviation(self._reach(scale)) * scale < LEAST_STEPS:
            why = f"noise_multiplier = {self.z:g} is too little for a sum of {self.peers} peers"
            raise OutOfRange(why, f"at least {LEAST_NOISE:g}")
        return scale

    @property
    def reach(self) -> float:
        """The sensitivity, rounding included."""
        return self._reach(self.scale)

    @property
    def deviation(self) -> float:
        """sigma_local: of the noise that this contribution carries."""
        return self._deviation(self.reach)

    @property
    def steps(self) -> float:
        """The same in steps of the grid."""
        return self.deviation * self.scale

    def limit(self, included: int) -> int:
        """What no word of a sum of so many goes beyond."""
        noise = TAIL * math.sqrt(included) * self.steps
        return math.ceil(included * (self.clip * self.scale + 1) + noise)

    def ratio(self, included: int) -> float:
        """By how much the noise of a sum has more than `reach` for its standard deviation: what the accountant takes.

        A colluder's noise is none. An update that is seen alone has its own noise only.
        """
        holding = included - self.colluders if self.together else 1
        return math.sqrt(holding) * self.deviation / self.reach

    @property
    def together(self) -> bool:
        """Whether the noise of several peers counts."""
        return self.colluders > 0 or self.sure > 1

    @property
    def least(self) -> int:
        """t: as few as may be in a sum."""
        return self.sure + self.colluders

    def _reach(self, scale: float) -> float:
        return self.clip + math.sqrt(self.values) / (2 * scale)

    def _deviation(self, reach: float) -> float:
        return self.z * reach / math.sqrt(self.sure)

    def _span(self, reach: float) -> float:
        return self.peers * self.clip + TAIL * math.sqrt(self.peers) * self._deviation(reach)


def sure_of(peers: int) -> int:
    """h of a secure sum over a roster of so many, with the least threshold (docs/protocol.md)."""
    threshold = 2 * peers // 3 + 1
    return threshold - max(0, min(2 * threshold - peers - 1, threshold - 2))


def noise_to_signal(z: float, values: int, included: int, sure: int) -> float:
    """The norm of the mean's noise over the longest that the mean can be, with `included` peers.

    together: z sqrt(d) sqrt(|U| / h) / |U|; alone (`sure` 1): z sqrt(d) / sqrt(n).
    """
    return z * math.sqrt(values) * math.sqrt(included / sure) / included
