"""Whose relayed bytes leave next: pairs of peers take turns by bytes, and no peer is faster than its rate. Pure.

Start-time fair queueing (Goyal, Vin and Cheng 1996): a message begins, in virtual time, where the one before it of its
pair ended, or now; whoever began first goes first. So a pair that was quiet is served at once, and one that always has
more to send gets no more than any other that does. A peer that is ahead of its rate waits before it takes its turn.
"""

from __future__ import annotations

import heapq
import math
from itertools import count

from signaling.limits import Limits

CREDIT_SECONDS = 0.05  # of the rate that was not used and may be caught up with


class Turns:
    """`ask` for a turn, which `grant` gives by its number. `now` is any steady clock."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._numbers = count()
        self._ahead: list[tuple[float, int, bytes, int]] = []  # (until, number, pair, size): faster than their rate
        self._ready: list[tuple[float, int, bytes, int]] = []  # (virtual start, number, pair, size)
        self._virtual = 0.0
        self._ends: dict[bytes, float] = {}  # by pair, in virtual time
        self._free: dict[bytes, float] = {}  # by peer: when it is within its rate again
        self._all_free = -math.inf

    @property
    def deadline(self) -> float:
        """When `grant` has to be called; inf when nobody waits."""
        if self._ready:
            return self._all_free
        return max(self._ahead[0][0], self._all_free) if self._ahead else math.inf

    def ask(self, pair: bytes, peer: bytes, size: int, now: float) -> int:
        """`peer` of `pair` wants to send a message of `size` bytes; the number of its turn."""
        number = next(self._numbers)
        start = max(self._free.get(peer, now), now - CREDIT_SECONDS)
        self._free[peer] = start + size / self.limits.relay_bytes_per_second
        heapq.heappush(self._ahead, (start, number, pair, size))
        return number

    def grant(self, now: float) -> list[int]:
        """The turns that have come, in order."""
        while self._ahead and self._ahead[0][0] <= now:
            _, number, pair, size = heapq.heappop(self._ahead)
            start = max(self._virtual, self._ends.get(pair, 0.0))
            self._ends[pair] = start + size
            heapq.heappush(self._ready, (start, number, pair, size))
        granted = []
        while self._ready and self._all_free <= now:
            self._virtual, number, _, size = heapq.heappop(self._ready)
            begun = max(self._all_free, now - CREDIT_SECONDS)
            self._all_free = begun + size / self.limits.relay_total_bytes_per_second
            granted.append(number)
        return granted

    def forget_old(self, now: float) -> None:
        """Drop what makes no difference any more."""
        self._free = {peer: free for peer, free in self._free.items() if free > now - CREDIT_SECONDS}
        self._ends = {pair: end for pair, end in self._ends.items() if end > self._virtual}
