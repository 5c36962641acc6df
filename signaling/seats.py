"""Tickets to the relay, the two seats of each, and what a peer may have carried. Part of the lobby; pure.

Relay -> reserve -> Ticket to both -> redeem, redeem -> a pair of guests that carry bytes -> lost
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from discod.wire.signaling import Denied
from signaling.limits import MAX_TICKETS, TICKET_SECONDS, Limits, PerMinute


@dataclass(frozen=True, slots=True)
class Seat:
    """What a ticket is for: one end of a splice. Both ends carry the same `pair`."""

    pair: bytes
    peer: bytes
    expires: float


class Seats:
    """All of a node; `fresh` gives 16 random bytes."""

    def __init__(self, fresh: Callable[[], bytes], limits: Limits) -> None:
        self._fresh, self.limits = fresh, limits
        self.reserved: dict[bytes, Seat] = {}  # by token
        self.waiting: dict[bytes, int] = {}  # pair -> the guest that redeemed first
        self.taken: dict[int, Seat] = {}  # by guest
        self._held: Counter[bytes] = Counter()  # seats of each peer, reserved or taken
        self._carried = PerMinute(limits.relay_bytes_per_minute)

    def set_limits(self, limits: Limits) -> None:
        """From now on."""
        self.limits, self._carried.limit = limits, limits.relay_bytes_per_minute

    def refusal(self, one: bytes, other: bytes, now: float) -> Denied | None:
        """Why no relay between these two is possible now; None when it is."""
        most = self.limits.relays_per_peer
        if any(self._carried.left(peer, now) <= 0 for peer in (one, other)):
            return self._over_quota(other)
        if any(self._held[peer] >= most for peer in (one, other)):
            why = (
                f"this node keeps {most} relays at most for each peer: let others end, or open a port for direct links"
            )
            return Denied("too-many-relays", why, other)
        if len(self.reserved) >= MAX_TICKETS:
            return Denied("relay-busy", "too many relays are being set up: it is tried again", other)
        return None

    def reserve(self, one: bytes, other: bytes, now: float) -> tuple[bytes, bytes]:
        """Two seats of a new pair: their tokens."""
        pair, first, second = self._fresh(), self._fresh(), self._fresh()
        expires = now + TICKET_SECONDS
        self.reserved |= {first: Seat(pair, one, expires), second: Seat(pair, other, expires)}
        self._held.update((one, other))
        return first, second

    def redeem(self, token: bytes, guest: int, now: float) -> Seat | None:
        """Take the seat of this token; None when there is none."""
        seat = self.reserved.get(token)
        if seat is None or seat.expires <= now:
            return None
        del self.reserved[token]
        self.taken[guest] = seat
        return seat

    def meet(self, seat: Seat, guest: int) -> int | None:
        """The guest on the other seat, or None: then this one waits for it."""
        if (other := self.waiting.pop(seat.pair, None)) is None:
            self.waiting[seat.pair] = guest
        return other

    def lost(self, guest: int) -> None:
        """A guest is gone; its seat is free."""
        if (seat := self.taken.pop(guest, None)) is not None:
            self._release(seat)
            if self.waiting.get(seat.pair) == guest:
                del self.waiting[seat.pair]

    def carry(self, guest: int, count: int, now: float) -> Denied | None:
        """Count relayed bytes; a refusal when the guest's peer has used up its minute."""
        peer = self.taken[guest].peer
        return None if self._carried.take(peer, count, now) else self._over_quota(peer)

    def forget_old(self, now: float) -> None:
        """Drop tickets that nobody redeemed, and old counts."""
        for token, seat in list(self.reserved.items()):
            if seat.expires <= now:
                del self.reserved[token]
                self._release(seat)
        self._carried.forget_old(now)

    def _release(self, seat: Seat) -> None:
        self._held[seat.peer] -= 1
        if not self._held[seat.peer]:
            del self._held[seat.peer]

    def _over_quota(self, about: bytes) -> Denied:
        megabytes = self.limits.relay_bytes_per_minute / 1e6
        why = f"the relay carries {megabytes:g} MB a minute for each peer: wait, or open a port for direct links"
        return Denied("relay-quota", why, about)
