"""The memory of one attempt: my words, the others' pieces, the sums. What it may hold, the round machine decides.

    mine     (d + 1,) uint32, once encoded; it must not change while pieces of it are on their way
    pieces   of the others, per (chunk, peer), of the chunks that I own or keep a safety copy of; gone once summed
    own      the sums I make, in memory of their own: they are sent while the total becomes the new parameters
    total    (d + 1,) uint32: the others' sums land in place, chunk by chunk

Nobody's bytes can spoil a sum that is already there: while one transfer may still be writing to a chunk's place in the
total, whatever else comes for that chunk gets memory of its own.
"""

from __future__ import annotations

import numpy as np

from discod.errors import LocalError
from discod.ring import Scale, Words, chunk_bounds


class Room:
    """Buffers for one roster of `codec.peers`, vectors of `words` = d + 1."""

    def __init__(self, words: int, codec: Scale) -> None:
        self.codec = codec
        self.mine: Words | None = None
        self._bounds = chunk_bounds(words, codec.peers)
        self._total: Words = np.empty(words, np.uint32)  # takes no memory until it is written to
        self._pieces: dict[tuple[int, bytes], Words] = {}
        self._blocks: dict[int, Words] = {}  # (peers, k): the memory of one chunk's pieces, given back as a whole
        self._coming: dict[tuple[int, bytes], Words] = {}  # sums on their way, by owner
        self._own: dict[int, Words] = {}
        self._sums: dict[tuple[int, bytes], Words] = {}  # all that are here, by chunk and hash
        self._taken: set[int] = set()  # chunks whose place in the total somebody writes, or wrote, to

    def start(self, chunk: int) -> int:
        """The word at which a chunk begins."""
        return self._bounds[chunk][0]

    def piece(self, chunk: int) -> Words:
        """My own words of a chunk."""
        if self.mine is None:
            raise LocalError("an update is encoded before it is sent")
        start, stop = self._bounds[chunk]
        return self.mine[start:stop]

    def sum(self, chunk: int) -> Words:
        """The sum of a chunk that I made myself."""
        return self._own[chunk]

    def place_for_piece(self, peer: bytes, chunk: int) -> Words:
        """Where a peer's piece of a chunk goes."""
        if (chunk, peer) not in self._pieces:
            start, stop = self._bounds[chunk]
            if chunk not in self._blocks:
                self._blocks[chunk] = np.empty((self.codec.peers, stop - start), np.uint32)
            row = sum(key[0] == chunk for key in self._pieces)
            self._pieces[chunk, peer] = self._blocks[chunk][row]
        return self._pieces[chunk, peer]

    def place_for_sum(self, owner: bytes, chunk: int) -> Words:
        """Where the sum of a chunk that `owner` sends goes."""
        key = (chunk, owner)
        if key not in self._coming:
            self._coming[key] = self._place(chunk)
        return self._coming[key]

    def sum_came(self, owner: bytes, chunk: int, hash_: bytes) -> None:
        """All words of it are here, and have the hash that their owner signed."""
        self._sums.setdefault((chunk, hash_), self._coming[chunk, owner])

    def prepare(self, chunk: int, included: tuple[bytes, ...], me: bytes) -> tuple[list[Words], Words]:
        """What `combine` needs for a chunk: the pieces of exactly these peers, and where the sum goes."""
        pieces = [self.piece(chunk) if peer == me else self._pieces[chunk, peer] for peer in included]
        start, stop = self._bounds[chunk]
        return pieces, np.empty(stop - start, np.uint32)

    def combined(self, chunk: int, sum_: Words, hash_: bytes) -> None:
        """The chunk is summed; its pieces are needed no more."""
        self._own[chunk] = sum_
        self._sums.setdefault((chunk, hash_), sum_)
        self._blocks.pop(chunk, None)
        for key in [key for key in self._pieces if key[0] == chunk]:
            del self._pieces[key]

    def total(self, hashes: tuple[bytes, ...]) -> Words:
        """(d + 1,) the sums with these hashes, in chunk order; the caller's to overwrite. Call it when all are here."""
        parts = {c: self._sums[c, hashes[c]] for c, (start, stop) in enumerate(self._bounds) if start < stop}
        for chunk, part in parts.items():
            start, stop = self._bounds[chunk]
            if np.shares_memory(part, self._total):
                continue
            if chunk in self._taken:  # somebody may still be writing to its place
                return np.concatenate(list(parts.values()))
            self._taken.add(chunk)
            self._total[start:stop] = part
        return self._total

    def _place(self, chunk: int) -> Words:
        start, stop = self._bounds[chunk]
        if chunk in self._taken:
            return np.empty(stop - start, np.uint32)
        self._taken.add(chunk)
        return self._total[start:stop]
