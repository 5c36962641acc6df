"""The queue in front of every connection of the node, and whose relayed bytes may leave.

A guest that does not read is dropped, never waited for; only the two ends of a relay wait for each other, because
waiting is what slows a sender down to its receiver's pace. What is relayed is the peers' own TLS: ciphertext.
"""

from __future__ import annotations

from collections import deque

import trio

from signaling.limits import Limits
from signaling.turns import Turns

RELAY_QUEUED_BYTES = 256 << 10  # a relay stops reading from one end when so much waits for the other
STALL_SECONDS = 30.0  # a relay whose receiver takes nothing for so long is closed


class Outgoing:
    """Messages towards one guest, taken by its writer."""

    def __init__(self, most: int) -> None:
        self._most = most  # bytes; more means that it does not read
        self._messages: deque[bytes] = deque()
        self._bytes = 0
        self._closing = False
        self.why = ""  # why it was closed, for the guest
        self._changed = trio.Event()

    @property
    def is_empty(self) -> bool:
        """Whether the writer has taken all."""
        return not self._messages

    def put(self, message: bytes) -> bool:
        """Queue a message; False when the guest does not read."""
        if self._bytes + len(message) > self._most:
            return False
        self._append(message)
        return True

    async def put_relayed(self, message: bytes) -> bool:
        """Queue relayed bytes, once there is room; False when there is none for STALL_SECONDS."""
        with trio.move_on_after(STALL_SECONDS):
            while self._bytes >= RELAY_QUEUED_BYTES and not self._closing:
                await self._changed.wait()
            self._append(message)
            return True
        return False

    def close(self, why: str = "") -> None:
        """Let the writer end once all was taken; the first reason stays."""
        self._closing, self.why = True, self.why or why
        self._notify()

    async def take(self) -> bytes | None:
        """The next message; None when closed and empty."""
        while not self._messages:
            if self._closing:
                return None
            await self._changed.wait()
        message = self._messages.popleft()
        self._bytes -= len(message)
        self._notify()
        return message

    def _append(self, message: bytes) -> None:
        self._messages.append(message)
        self._bytes += len(message)
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class Carrier:
    """Turns of relayed messages, waited for. `run` it beside the listeners."""

    def __init__(self, limits: Limits) -> None:
        self.turns = Turns(limits)
        self._waiting: dict[int, trio.Event] = {}
        self._asked = trio.Event()

    async def turn(self, pair: bytes, peer: bytes, size: int) -> None:
        """Wait until these bytes may go. Cancelled, its turn is spent."""
        number = self.turns.ask(pair, peer, size, trio.current_time())
        self._waiting[number] = mine = trio.Event()
        self._grant()
        if not mine.is_set():
            self._asked.set()
            await mine.wait()

    async def run(self) -> None:
        """For ever."""
        while True:
            with trio.move_on_at(self.turns.deadline):
                await self._asked.wait()
                self._asked = trio.Event()
            self._grant()

    def _grant(self) -> None:
        for number in self.turns.grant(trio.current_time()):
            self._waiting.pop(number).set()
