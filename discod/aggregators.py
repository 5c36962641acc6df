"""The aggregators that see each update by itself and believe no single one: their names, and what they need.

    median         of each number the middle value; resists any minority
    trimmed-mean   of each number the mean without the `liars` smallest and the `liars` largest values
    multi-krum     the mean of the n - liars updates that lie closest to their neighbours

What they compute is in robust.py; this is what tasks, nodes and peers must agree on. Pure, without numpy.
"""

from __future__ import annotations

from typing import NamedTuple

ROBUST = ("median", "trimmed-mean", "multi-krum")


class RobustRule(NamedTuple):
    """An aggregator of ROBUST; `liars` is f, how many of the updates may be anything (median has no such number)."""

    name: str
    liars: int = 0

    @property
    def least(self) -> int:
        """Updates without which the rule promises nothing."""
        return {"median": 3, "trimmed-mean": 2 * self.liars + 1, "multi-krum": 2 * self.liars + 3}[self.name]

    def counted(self, updates: int) -> int:
        """Of how many words each word of the result is the sum."""
        taken = {"median": 2, "trimmed-mean": updates - 2 * self.liars, "multi-krum": updates - self.liars}
        return taken[self.name]
