"""The noise of one peer's run: from what the task asks for and how many rows the peer trains on. Pure.

    q      batch_size / rows, at most 1: the chance of a record to be in a step
    steps  rounds x round_duration: what a run without lost rounds takes
    z      the task's noise_multiplier, or the smallest with which all steps cost the task's epsilon at its delta

The number of rows enters q and is not hidden by the noise (docs/security.md, 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from discod.privacy.accountant import Curve, OutOfRange, epsilon_of, noise_for, sampled_gaussian

OVERFLOW_SHARE = 1e-9  # of delta, for all steps together: at epsilon 16 it costs 1 % of delta (`epsilon_of`)


class Planned(Protocol):
    """What is read of a task; its privacy section has unit, epsilon, delta, noise_multiplier and clip."""

    @property
    def privacy(self) -> Any: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def rounds(self) -> int: ...

    @property
    def round_duration(self) -> int: ...


@dataclass(frozen=True)
class Noise:
    """Steps on Poisson samples of rate `q`, each row's gradient clipped to `clip`, noise of `z clip` on their sum."""

    q: float
    z: float
    steps: int
    delta: float
    clip: float

    @property
    def epsilon(self) -> float:
        """What all steps cost a record, at `delta`."""
        return epsilon_of(self.per_round(self.steps), self.delta, self.overflow * self.steps)

    @property
    def overflow(self) -> float:
        """How likely a step's sample may be too large for its block, to be drawn again; no block may be smaller."""
        return self.delta * OVERFLOW_SHARE / self.steps

    def per_round(self, steps: int) -> Curve:
        """What so many steps cost a record."""
        return sampled_gaussian(self.q, self.z, steps)


def plan_noise(task: Planned, rows: int) -> Noise | None:
    """The noise of a peer with `rows` training rows; None when steps have none. Takes up to a second.

    Raises: OutOfRange.
    """
    rule = task.privacy
    if rule.unit != "record":
        return None
    if rows < 1:
        raise OutOfRange("there are no rows to protect", "add data, or lower validation_split")
    q, steps = min(1.0, task.batch_size / rows), task.rounds * task.round_duration
    z = rule.noise_multiplier or noise_for(rule.epsilon, rule.delta, q, steps)
    return Noise(q, z, steps, rule.delta, rule.clip)
