"""What happened in this daemon, numbered without gaps, in a ring: whoever reads late sees by the ids what it missed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any

import trio

EVENTS_KEPT = 4096

Event = dict[str, Any]


class EventLog:
    """A ring of events whose ids rise by one; the daemon writes, any number of streams read."""

    def __init__(self, kept: int = EVENTS_KEPT, clock: Callable[[], float] = time.time) -> None:
        self._ring: deque[Event] = deque(maxlen=kept)
        self._clock = clock
        self._changed = trio.Event()
        self.last_id = 0
        self.closed = False

    def add(self, type_: str, /, **fields: Any) -> int:
        """Append one event and wake the readers; its id."""
        self.last_id += 1
        head = {"schema": "discod.event/1", "id": self.last_id, "time": self._clock(), "type": type_}
        self._ring.append(head | fields)
        self._wake()
        return self.last_id

    def close(self) -> None:
        """End all streams once they have delivered what is there."""
        self.closed = True
        self._wake()

    def since(self, after: int) -> list[Event]:
        """The events with an id above `after` that are still here. An id from before a restart counts as 0."""
        if after > self.last_id:
            after = 0
        missing = self.last_id - after
        return list(self._ring)[-missing:] if missing else []

    async def more(self, after: int) -> list[Event]:
        """The events above `after`, waiting until there are some; empty only when the log is closed. Waits without a
        deadline: the reader's connection is what ends it. Cancellation loses nothing: ask again."""
        while not (found := self.since(after)) and not self.closed:
            await self._changed.wait()
        return found

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def wanted(event: Event, types: Collection[str], fields: Mapping[str, str]) -> bool:
    """Whether an event passes a reader's filter: one of `types` (none: all), and these fields exactly."""
    if types and event["type"] not in types:
        return False
    return all(str(event.get(name)) == value for name, value in fields.items())
