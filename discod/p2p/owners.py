"""Who sums which chunk: c belongs to the c-th of the owner order; when that peer is gone, to the next that is not.

An owner's piece of its own chunk also goes to the next in order, the safety copy, so that only the loss of two
neighbours in the order loses a chunk. With `witness` all pieces go to the next in order too: it sums as well, and a sum
counts only when both say the same hash.
"""

from __future__ import annotations

from discod.wire.codec import digest


class Owners:
    """The owner order of one roster, and what has been moved since."""

    def __init__(self, rid: bytes, roster: tuple[bytes, ...], sizes: tuple[int, ...], *, witness: bool = False) -> None:
        self.witness = witness
        self.order = tuple(sorted(roster, key=lambda peer: digest("discod/owner/1", rid, peer)))
        self.chunks = tuple(chunk for chunk, size in enumerate(sizes) if size)  # the empty ones cause no messages
        self.gone: frozenset[bytes] = frozenset()  # by the leader's word
        self._moves: dict[int, int] = {}  # chunk -> steps down the order, after t Consents
        self._candidates: dict[tuple[int, frozenset[bytes]], list[bytes]] = {}

    def owner(self, chunk: int, gone: frozenset[bytes], skip: int = 0) -> bytes:
        """The first in order, from the chunk's own peer, that is not gone; or the `skip`-th after it."""
        key = (chunk, gone)
        if key not in self._candidates:
            cyclic = self.order[chunk:] + self.order[:chunk]
            self._candidates[key] = [peer for peer in cyclic if peer not in gone]
        candidates = self._candidates[key]
        return candidates[skip % len(candidates)]

    def current(self, chunk: int, ahead: int = 0) -> bytes:
        """The owner by now, or the one that comes `ahead` places after it."""
        return self.owner(chunk, self.gone, self._moves.get(chunk, 0) + ahead)

    def so_far(self, chunk: int) -> list[bytes]:
        """Everybody that has been asked to sum this chunk."""
        return [self.owner(chunk, self.gone, skip) for skip in range(self._moves.get(chunk, 0) + 1)]

    def receivers(self, chunk: int, me: bytes) -> list[bytes]:
        """Who gets my piece: the owners so far, and where I am one of them the next in order."""
        owners = self.so_far(chunk)
        if self.witness:
            return [peer for peer in (*owners, self.current(chunk, 1)) if peer != me]
        return [self.owner(chunk, self.gone, k + 1) if owner == me else owner for k, owner in enumerate(owners)]

    def summers(self, chunk: int) -> list[bytes]:
        """Everybody that is to sum this chunk: the owners so far, and the witness."""
        return [*self.so_far(chunk), *([self.current(chunk, 1)] if self.witness else [])]

    def holders(self, chunk: int, peer: bytes, gone: frozenset[bytes]) -> list[bytes]:
        """Whose receipts make this piece of `peer` safe: the owner's, or for an owner's own piece the next one's.

        With a witness both, but for the peer itself.
        """
        owner, following = self.owner(chunk, gone), self.owner(chunk, gone, 1)
        if self.witness:
            return [holder for holder in (owner, following) if holder != peer]
        return [following if owner == peer else owner]

    def move(self, chunk: int) -> bool:
        """The chunk goes to the next in order; False when nobody is left to ask."""
        moves = self._moves.get(chunk, 0) + 1
        if moves >= len(self.order):
            return False
        self._moves[chunk] = moves
        return True
