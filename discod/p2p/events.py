"""What a mesh tells the daemon, in the order in which it happened, through a queue that is bounded."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import trio

from discod.wire.links import BulkHeader, LinkMessage

MAX_WAITING = 256  # a link's reader waits when so many events wait


@dataclass(frozen=True, slots=True)
class LinkUp:
    """A peer is linked; messages to it before this were not sent."""

    peer: bytes
    path: str


@dataclass(frozen=True, slots=True)
class LinkDown:
    """A peer is no longer linked; what was queued for it, and a transfer under way either way, is lost."""

    peer: bytes
    why: str


@dataclass(frozen=True, slots=True)
class PathChanged:
    """The link moved to a better path; nothing was lost."""

    peer: bytes
    path: str


@dataclass(frozen=True, slots=True)
class Received:
    """A Post or Refusal came."""

    peer: bytes
    message: LinkMessage


@dataclass(frozen=True, slots=True)
class BulkArrived:
    """All bytes are where `expect` wanted them; `digest` is their SHA-256."""

    peer: bytes
    header: BulkHeader
    digest: bytes


@dataclass(frozen=True, slots=True)
class RecordsChanged:
    """Members, tasks or addresses of this mesh changed: its records are to be kept."""

    mesh: bytes


@dataclass(frozen=True, slots=True)
class SignalingUp:
    """We are present at a signaling node."""

    mesh: bytes
    url: str


@dataclass(frozen=True, slots=True)
class SignalingDown:
    """We are not; links stay, and it is tried again."""

    mesh: bytes
    url: str
    why: str


@dataclass(frozen=True, slots=True)
class Warned:
    """Something a person should know."""

    text: str
    hint: str


Event = LinkUp | LinkDown | PathChanged | Received | BulkArrived | RecordsChanged | SignalingUp | SignalingDown | Warned


class EventQueue:
    """One consumer takes; it handles, or synchronously hands on, an event before it asks for the next."""

    def __init__(self) -> None:
        self._waiting: deque[Event | trio.Event] = deque()
        self._changed = trio.Event()

    async def put(self, event: Event | trio.Event) -> None:
        """Add an event, once there is room: no deadline, the consumer's pace is the links' pace.

        No checkpoint while there is: a link's reader hands on all of one read, 256 KiB at most, before it waits.
        """
        while len(self._waiting) >= MAX_WAITING:
            await self._changed.wait()
        self._waiting.append(event)
        self._notify()

    def note(self, event: Event) -> None:
        """Add an event that must not wait, unless the same one waits already: few of these are different."""
        if event not in self._waiting:
            self._waiting.append(event)
            self._notify()

    async def settled(self) -> None:
        """Wait until the consumer has handled all that was put before."""
        barrier = trio.Event()
        await self.put(barrier)
        await barrier.wait()

    async def receive(self) -> Event:
        """The next event; for ever, if nothing happens."""
        while True:
            while not self._waiting:
                await self._changed.wait()
            event = self._waiting.popleft()
            self._notify()
            if not isinstance(event, trio.Event):
                return event
            event.set()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
