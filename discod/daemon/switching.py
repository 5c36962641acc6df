"""Mesh or node? When a task falls back to its node, and when it returns. Pure, sans-IO.

    MESH   no quorum linked for `after` seconds without a break   -> NODE
    NODE   a quorum linked for `settle` seconds without a break   -> MESH

Both need a condition that lasts, so links that come and go move nothing: every change of `quorum` starts the wait anew.
"""

from __future__ import annotations

import math
from enum import Enum

SETTLE_SECONDS = 5.0  # that a quorum has to stay linked, at most; never longer than going took


class Way(Enum):
    """Where updates go."""

    MESH = "mesh"
    NODE = "node"


class Switch:
    """The decision. Inputs may come in any order; `now` never runs back."""

    def __init__(self, after: float, now: float) -> None:
        self._after, self._settle = after, min(after, SETTLE_SECONDS)
        self.way, self.switches = Way.MESH, 0
        self._quorum, self._since = False, now

    def quorum(self, is_linked: bool, now: float) -> None:
        """Whether as many trainers as a round needs are linked, this one included."""
        self.tick(now)
        if is_linked != self._quorum:
            self._quorum, self._since = is_linked, now

    def tick(self, now: float) -> None:
        """Time has passed."""
        if now >= self.deadline:
            self.way = Way.MESH if self.way is Way.NODE else Way.NODE
            self.switches += 1

    @property
    def deadline(self) -> float:
        """When `tick` is due; inf while things are as they should be."""
        if self._quorum is (self.way is Way.MESH):
            return math.inf
        return self._since + (self._after if self.way is Way.MESH else self._settle)
