"""Updates with noise of their own, `privacy.unit = "peer"`: what is added to them, and what they cost.

before the Manifest    noise on the grid, from a key of the system's entropy; one release charged, as if |U| = t
a certificate          of a sum over U that this peer has made itself: charged for |U|, or nothing if it is not in U
lost, replaced,        stays charged
refused, `mean`
"""

from __future__ import annotations

import os

import numpy as np

from discod.daemon.charging import Charging, Content, shown_noise
from discod.p2p.certificate import colluders_of
from discod.privacy.accountant import NOTHING, Curve, add, epsilon_of, gaussian
from discod.privacy.peers import PeerNoise, Portion, costs, plan_peer_noise
from discod.privacy.plan import Noise
from discod.ring import Codec, Scale, encode_chunk, shrinking
from discod.ring import Noise as AddNoise
from discod.store import Amend, Charge, SpentRow
from discod.train.chacha import KEY_BYTES, ChaCha
from discod.train.task import TaskSpec
from discod.train.vector import Vector
from discod.wire.rounds import MAX_ROSTER

assert MAX_ROSTER <= 128, "LEAST_NOISE is enough for so many"


def charging_for(task: TaskSpec) -> Charging:
    """The charges of a run of this task."""
    return PeerCharging(task) if task.privacy.unit == "peer" else Charging(task)


def scale_of(task: TaskSpec, values: int, bound: float, peers: int, threshold: int) -> Scale:
    """How updates of `values` parameters are encoded in a roster of `peers`."""
    noise = plan_peer_noise(task)
    if noise is None:
        return Codec(peers, bound)
    if task.aggregator != "secure":
        return Portion(noise.z, noise.clip, values, peers)
    colluders = colluders_of(peers, threshold)
    return Portion(noise.z, noise.clip, values, peers, threshold - colluders, colluders)


def fresh_noise(portion: Portion) -> AddNoise:
    """Adds noise to words in place, from a key that nobody has."""
    chance, steps = ChaCha(os.urandom(KEY_BYTES)), portion.steps

    def add_to(words: np.ndarray[tuple[int, ...], np.dtype[np.uint32]]) -> None:
        words += chance.integers(words.size, steps).astype(np.int32).view(np.uint32)

    return add_to


def noised_update(local: Vector, origin: Vector, noise: PeerNoise) -> Vector:
    """local - origin, both (d,), clipped and noised on the grid, as floats. Raises: NotFinite."""
    portion, words = Portion(noise.z, noise.clip, local.size, 1), np.empty(local.size, np.uint32)
    shrink = shrinking(local, origin, noise.clip)
    encode_chunk(local, origin, portion, None, words, 0, shrink=shrink, noise=fresh_noise(portion))
    update: Vector = (words.view(np.int32) / portion.scale).astype(np.float32)
    return update


class PeerCharging(Charging):
    """Charges releases, not steps: whatever was trained, an update is clipped as a whole."""

    def __init__(self, task: TaskSpec) -> None:
        super().__init__(task)
        noise = plan_peer_noise(task)
        assert noise is not None, "a task of unit peer has its noise"
        self._plan, self._cost, self._sent = noise, NOTHING, 0

    def begin(self, content: Content | None, spent: list[SpentRow], batches: int, *, at_base: bool) -> None:
        """Training starts; updates of earlier starts count as if |U| had been t."""
        self._content, self._sent = content, len(spent)
        self._cost = gaussian(self._plan.z, len(spent))

    def trains(self, noise: Noise | None) -> None:
        """A worker trains; it adds no noise."""

    def start_anew(self, batches: int) -> None:
        """Nothing that was trained is charged before it is sent."""

    def charge(self, batches: int) -> Charge | None:
        """What an update costs whose sum has as little noise as any; None when nothing is charged."""
        return None if self._content is None else self._charge(*costs(self._plan.z))

    def covers(self, batches: int) -> bool:
        """Whether another update is within the releases that the noise of the task is planned for."""
        return self._sent < self._plan.releases

    def paid(self, batches: int) -> None:
        """An update is charged, and may be sent."""
        self._sent += 1
        self._cost = add(self._cost, gaussian(self._plan.z))

    def amend(self, portion: Portion, included: int) -> Amend | None:
        """What a certified sum over so many has cost less than was charged (0: it is without this peer's update)."""
        was, now = costs(self._plan.z), costs(portion.ratio(included)) if included else (NOTHING, NOTHING)
        self._cost = _without(add(self._cost, now[1]), was[1])
        return None if self._content is None else Amend(self._charge(*was), self._charge(*now))

    def shown(self) -> dict[str, object] | None:
        """The privacy of a run, for the control API."""
        return shown_noise(self._plan) | {"spent": self.epsilon}

    @property
    def epsilon(self) -> float:
        """Of what this run has sent."""
        return epsilon_of(self._cost, self._plan.delta)

    def _charge(self, record: Curve, peer: Curve) -> Charge:
        assert self._content is not None, "a bundled sample is not charged"
        return Charge(self._content.hash, self._content.path, record, peer)


def _without(curve: Curve, part: Curve) -> Curve:
    return tuple(max(0.0, c - p) for c, p in zip(curve, part, strict=True))
