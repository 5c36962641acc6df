"""Bytes over the links of a mesh since a run began, also when links come and go. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Counted(NamedTuple):
    """What one link has carried since it came up, and when that was: a later `since` is another link."""

    since: float
    up: int
    down: int


class Traffic:
    """Adds up what links report; bytes after the last report of a link that then broke are missed."""

    def __init__(self, now: Mapping[bytes, Counted]) -> None:
        self._last = dict(now)
        self.up = self.down = 0

    def update(self, now: Mapping[bytes, Counted]) -> None:
        """Count what is new on each link, by PeerId."""
        for peer, count in now.items():
            before = self._last.get(peer)
            if before is None or before.since != count.since:
                before = Counted(count.since, 0, 0)
            self.up += count.up - before.up
            self.down += count.down - before.down
        self._last.update(now)
