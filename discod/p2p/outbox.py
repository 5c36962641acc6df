"""What is still to be sent to one peer: control messages, and bulk transfers between whose pieces control passes.

Never blocks and never grows without bound: a peer that does not read is dropped by whoever sees `put` refuse.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

from discod.wire.codec import BULK_PIECE_BYTES
from discod.wire.links import BulkHeader

MAX_QUEUED_BYTES = 16 << 20  # control
MAX_QUEUED_TRANSFERS = 4096
BATCH_BYTES = 64 << 10  # control messages sent in one write

Sent = Callable[[bool], None]


class Transfer:
    """One bulk transfer; `data` is not copied and must not change until `sent` was called."""

    def __init__(self, header: BulkHeader, data: memoryview, sent: Sent | None) -> None:
        self.header, self.data, self.sent = header, data, sent
        self.begun, self.sent_bytes = False, 0

    def close(self, complete: bool) -> None:
        """Tell whoever lent the data."""
        if self.sent is not None:
            self.sent(complete)


class Outbox:
    """The queues of one peer. One writer at a time takes from it."""

    def __init__(self) -> None:
        self.control: deque[bytes] = deque()
        self.bulk: deque[Transfer] = deque()
        self.said_bye = False
        self._bytes = 0
        self._wake = trio.Event()
        self._last: bytes | None = None

    @property
    def under_way(self) -> bool:
        """Whether part of a transfer has been sent."""
        return bool(self.bulk) and self.bulk[0].begun

    @property
    def empty(self) -> bool:
        """Whether all was handed to TLS."""
        return not self.control and not self.bulk

    def put(self, body: bytes) -> bool:
        """Queue a control message; False when the peer has not read for too long."""
        if self._bytes + len(body) > MAX_QUEUED_BYTES:
            return False
        self.control.append(body)
        self._bytes += len(body)
        self._wake.set()
        return True

    def put_last(self, body: bytes) -> None:
        """Queue the Bye: it overtakes all bulk and nothing follows it."""
        self._last = body
        self._wake.set()

    def put_bulk(self, transfer: Transfer) -> bool:
        """Queue a transfer; False when there are too many."""
        if len(self.bulk) >= MAX_QUEUED_TRANSFERS:
            return False
        self.bulk.append(transfer)
        self._wake.set()
        return True

    def wake(self) -> None:
        """Let the writer look again."""
        self._wake.set()

    async def wait(self) -> None:
        """Wait for the next `put` or `wake`: for ever, if nobody sends (keepalive ends dead links)."""
        await self._wake.wait()
        self._wake = trio.Event()

    def take_control(self) -> list[bytes]:
        """Return the next control messages, up to one write's worth."""
        bodies: list[bytes] = []
        size = 0
        while self.control and size < BATCH_BYTES:
            bodies.append(self.control.popleft())
            size += len(bodies[-1])
        self._bytes -= size
        if self._last is not None and not self.control:
            bodies.append(self._last)
            self.said_bye = True
        return bodies

    def next_pieces(self, size: int) -> list[tuple[Transfer, memoryview]]:
        """What to send next of the transfers, in order: pieces until `size` bytes are reached; at most one of each."""
        pieces: list[tuple[Transfer, memoryview]] = []
        for transfer in self.bulk:
            if size <= 0:
                break
            pieces.append((transfer, transfer.data[transfer.sent_bytes :][:BULK_PIECE_BYTES]))
            size -= len(pieces[-1][1]) + 1
            if transfer.sent_bytes + len(pieces[-1][1]) < len(transfer.data):
                break  # no other transfer begins before this one has left
        return pieces

    def advance(self, pieces: list[tuple[Transfer, memoryview]]) -> None:
        """These have left."""
        for transfer, piece in pieces:
            transfer.begun = True
            transfer.sent_bytes += len(piece)
            if transfer.sent_bytes == len(transfer.data):
                self.bulk.popleft()
                transfer.close(True)

    def clear(self) -> None:
        """The link is lost: nothing queued for it will be sent."""
        dropped = list(self.bulk)
        self.control.clear()
        self.bulk.clear()
        self._bytes = 0
        for transfer in dropped:
            transfer.close(False)
