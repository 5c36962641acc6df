"""What one address, one connection and one peer may ask of a node; counted, never waited for. Pure.

`Limits` is what whoever runs the node may set; it is replaced as a whole. What follows it is fixed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from discod.errors import UsageError

MAX_ROOMS = 4096
MAX_PEERS = 1024  # in one room
MAX_PUBLISHED = 1024  # records of one room
MAX_JOIN_BYTES = 32 << 10
GREETING_SECONDS = 10.0  # from the WebSocket to Knock or Redeem
SILENT_SECONDS = 60.0
TICKET_SECONDS = 10.0
MAX_TICKETS = 10_000
MAX_BUFFERS = 16  # federated ones, of one mesh
MAX_VECTOR_BYTES = 256 << 20
MAX_ARRIVING_BYTES = 1 << 30  # of all updates that are being received at a time
MOVED_BYTES_PER_MINUTE = 1 << 30  # updates and versions of one peer
VISIT_MESSAGES_PER_MINUTE = 3000  # of one visit to a federated buffer
MAX_SHOWN_BYTES = 4 << 20  # records in one visit
PIECE_SECONDS = 30.0  # between two pieces of a vector
MINUTE = 60.0
BEHIND_SECONDS = 30.0  # who is faster than its rate for so long is refused; before that its messages wait
CONNECTION_SLACK_SECONDS, ADDRESS_SLACK_SECONDS = 1.0, 0.1  # of messages that need not wait

Amount = Annotated[int, Meta(ge=1, le=1 << 40)]


class Limits(Struct, frozen=True, kw_only=True):
    """Settable limits, each a whole number. An address is an IPv4 address or an IPv6 network of 64 bits."""

    connections: Amount = 4096  # of all
    connections_per_address: Amount = 128
    opening_per_address: Amount = 16  # that have not finished the TLS and WebSocket handshakes
    opened_per_minute: Amount = 600  # from one address
    opening_seconds: Amount = 10  # for both handshakes
    joins_per_minute: Amount = 240  # from one address
    messages_per_second: Amount = 100  # on one connection; each record in one counts too: signatures are what costs
    address_messages_per_second: Amount = 1000  # on all connections of one address
    queued_bytes: Amount = 4 << 20  # towards one connection; more means that it does not read
    relays_per_peer: Amount = 64
    relay_bytes_per_minute: Amount = 50_000_000  # of one peer; beyond, its relays are closed
    relay_bytes_per_second: Amount = 10_000_000  # of one peer; faster is slowed down
    relay_total_bytes_per_second: Amount = 100_000_000  # of all; pairs of peers take turns


DEFAULTS = Limits()


def set_limits(limits: Limits, changes: Iterable[str]) -> Limits:
    """The limits with changes such as "joins-per-minute=60".  Raises: UsageError."""
    values = msgspec.structs.asdict(limits)
    for change in changes:
        name, equals, value = change.partition("=")
        field = name.replace("-", "_")
        if not equals or field not in values:
            names = ", ".join(each.replace("_", "-") for each in values)
            raise UsageError(f"{change!r} sets no limit", f"write NAME=NUMBER; there are {names}")
        values[field] = value.replace("_", "")
    try:
        return msgspec.convert(values, Limits, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"a limit is no whole number from 1 on: {error}", "write NAME=NUMBER") from None


def source(host: str) -> str:
    """What counts as one address: of IPv6 the network of 64 bits, which one customer has at least."""
    try:
        number = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(number, IPv6Address):
        if number.ipv4_mapped is not None:
            return str(number.ipv4_mapped)
        return f"{IPv6Address(int(number) >> 64 << 64)}/64"
    return str(number)


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


class PerSecond:
    """Amounts by key at a steady `rate`: what comes faster waits, so that no burst holds up everybody else."""

    def __init__(self, rate: int, slack_seconds: float) -> None:
        self.rate, self._slack = rate, slack_seconds
        self._due: dict[object, float] = {}  # when all that was taken is within the rate
        self._since: dict[object, float] = {}  # since when it has had to wait, each time

    def wait(self, key: object, amount: int, now: float) -> float | None:
        """Count `amount` for `key`: the seconds it has to wait; None for who has been too fast for BEHIND_SECONDS."""
        due = max(self._due.get(key, now), now)
        if (wait := due - now - self._slack) <= 0:
            self._since.pop(key, None)
        elif now - self._since.setdefault(key, now) > BEHIND_SECONDS:
            return None
        self._due[key] = due + amount / self.rate
        return max(0.0, wait)

    def forget_old(self, now: float) -> None:
        """Drop what is within the rate again."""
        self._due = {key: due for key, due in self._due.items() if due > now}
        self._since = {key: since for key, since in self._since.items() if key in self._due}


class Gate:
    """Connections before they are guests: those still in their handshakes, and how often an address comes."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._opening: Counter[str] = Counter()
        self._opened = PerMinute(limits.opened_per_minute)
        self.here = 0  # connections, opening or open
        self.turned_away = 0

    def set_limits(self, limits: Limits) -> None:
        """From now on."""
        self._limits, self._opened.limit = limits, limits.opened_per_minute

    def enter(self, address: str, now: float) -> bool:
        """Somebody connected; False: hang up without a word, for a word would cost a handshake."""
        limits = self._limits
        full = self.here >= limits.connections or self._opening[address] >= limits.opening_per_address
        if full or not self._opened.take(address, 1, now):
            self.turned_away += 1
            return False
        self.here += 1
        self._opening[address] += 1
        return True

    def opened(self, address: str) -> None:
        """Its handshakes are over, well or not."""
        self._opening[address] -= 1
        if not self._opening[address]:
            del self._opening[address]

    def leave(self) -> None:
        """Its connection is closed."""
        self.here -= 1

    def forget_old(self, now: float) -> None:
        """Drop old counts."""
        self._opened.forget_old(now)
