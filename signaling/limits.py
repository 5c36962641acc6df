"""What one address, one connection and one peer may ask of a node; counted, never waited for. Pure."""

from __future__ import annotations

CONNECTIONS_PER_ADDRESS = 128
JOINS_PER_MINUTE = 240  # from one address
MESSAGES_PER_MINUTE = 3000  # on one connection
RELAY_BYTES_PER_MINUTE = 50_000_000  # of one peer
MAX_ROOMS = 4096
MAX_PEERS = 1024  # in one room
MAX_PUBLISHED = 1024  # records of one room
MAX_JOIN_BYTES = 32 << 10
GREETING_SECONDS = 10.0  # from connecting to Knock or Redeem
SILENT_SECONDS = 60.0
TICKET_SECONDS = 10.0
MAX_TICKETS = 10_000
MAX_BUFFERS = 16  # federated ones, of one mesh
MAX_VECTOR_BYTES = 256 << 20
MAX_ARRIVING_BYTES = 1 << 30  # of all updates that are being received at a time
MOVED_BYTES_PER_MINUTE = 1 << 30  # updates and versions of one peer
MAX_SHOWN_BYTES = 4 << 20  # records in one visit
PIECE_SECONDS = 30.0  # between two pieces of a vector
MINUTE = 60.0


class PerMinute:
    """Amounts by key, each counted in windows of a minute; at most `limit` in one window."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._windows: dict[object, tuple[float, int]] = {}

    def take(self, key: object, amount: int, now: float) -> bool:
        """Count `amount` for `key`; False, and nothing counted, when that is too much for this minute."""
        start, used = self._windows.get(key, (now, 0))
        if not 0 <= now - start < MINUTE:
            start, used = now, 0
        if used + amount > self.limit:
            return False
        self._windows[key] = (start, used + amount)
        return True

    def left(self, key: object, now: float) -> int:
        """What `key` may still take in its minute."""
        start, used = self._windows.get(key, (now, 0))
        return self.limit - used if 0 <= now - start < MINUTE else self.limit

    def forget_old(self, now: float) -> None:
        """Drop the windows that are over."""
        self._windows = {key: (start, used) for key, (start, used) in self._windows.items() if now - start < MINUTE}
