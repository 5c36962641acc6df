"""Messages that came before what they belong to: held for members, at most 1 MiB a peer, the oldest given up first."""

from __future__ import annotations

from collections import deque

from discod.wire.codec import MAX_CONTROL_BYTES
from discod.wire.rounds import Envelope, Signed


class Early:
    """Signed messages by sender, until their round id is known here."""

    def __init__(self) -> None:
        self._held: dict[bytes, deque[tuple[bytes, Signed]]] = {}
        self._bytes: dict[bytes, int] = {}

    def hold(self, envelope: Envelope, signed: Signed) -> None:
        queue = self._held.setdefault(envelope.sender, deque())
        if (envelope.rid, signed) in queue:
            return
        queue.append((envelope.rid, signed))
        size = self._bytes.get(envelope.sender, 0) + len(signed.envelope)
        while size > MAX_CONTROL_BYTES:
            size -= len(queue.popleft()[1].envelope)
        self._bytes[envelope.sender] = size

    def take(self, rid: bytes) -> list[Signed]:
        """Remove and return what was held for `rid`, in order of arrival per sender."""
        taken = []
        for sender, queue in self._held.items():
            mine = [signed for held, signed in queue if held == rid]
            taken += mine
            self._held[sender] = deque(entry for entry in queue if entry[0] != rid)
            self._bytes[sender] = sum(len(signed.envelope) for _, signed in self._held[sender])
        return taken

    def clear(self) -> None:
        self._held.clear()
        self._bytes.clear()
