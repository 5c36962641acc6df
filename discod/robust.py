"""Sums over integer words that a minority of false ones cannot move far: median, trimmed mean, multi-Krum.

    join    words of n updates, each (k,)  ->  a sum (k,) of rule.counted(n) words each

A result is a sum of so many words, as that of the mean is a sum of n words: the mean of the two in the middle is half
of their sum, so nothing is ever rounded here, and ring.apply_mean divides. All of it is comparison and addition of
integers: the order of the updates changes nothing, and every machine computes the same bits. Words beyond the bound of
the codec are what no honest peer encodes; they are cut to it first.

Median and trimmed mean: Yin et al. 2018 (1803.01498); they work on any chunk by itself. Multi-Krum: Blanchard et al.
2017 (1703.02757), which needs whole vectors; the score is the sum of the squared distances to the n - f - 2 nearest
others, and the n - f updates with the lowest scores are taken. Distances are exact, and of equal scores the smaller
SHA-256 of the update goes first, so not even a tie depends on the order.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
import numpy.typing as npt

from discod.aggregators import RobustRule
from discod.errors import LocalError
from discod.masks import Words

Signed = npt.NDArray[np.int32]

BLOCK = 1 << 14  # words of each update at a time: what is sorted stays in the cache
LOW = np.uint64(0xFFFFFFFF)


def join(pieces: Sequence[Words], out: Words, rule: RobustRule, bits: int) -> bytes:
    """Write the sum that `rule` makes of the pieces into `out`; returns its SHA-256.

    pieces, out: (k,) uint32, two's complement; `bits` is Codec.bits of at least so many peers. For multi-krum they are
    whole updates.
    """
    if len(pieces) < rule.least:
        raise LocalError(f"{rule.name} of {len(pieces)} updates, {rule.least} are needed")
    state = sha256()
    chosen = pieces if rule.name != "multi-krum" else [pieces[i] for i in nearest(pieces, rule.liars, bits)]
    for a in range(0, out.size, BLOCK):
        rows = _cut([piece[a : a + BLOCK] for piece in chosen], bits)
        out[a : a + BLOCK] = _joined(rows, rule).view(np.uint32)
        state.update(out[a : a + BLOCK].data)
    return state.digest()


def _cut(pieces: Sequence[Words], bits: int) -> Signed:
    """(n, k) int32 of the pieces, within +-2^bits."""
    rows = np.stack([piece.view(np.int32) for piece in pieces])
    return np.clip(rows, -(1 << bits), 1 << bits, out=rows)


def _joined(rows: Signed, rule: RobustRule) -> Signed:
    """(k,) of (n, k) rows."""
    n, drop = len(rows), 0
    if rule.name == "median":
        rows.sort(axis=0)
        middle: Signed = rows[(n - 1) // 2] + rows[n // 2]
        return middle
    if rule.name == "trimmed-mean":
        rows.sort(axis=0)
        drop = rule.liars
    total: Signed = rows[drop : n - drop].sum(axis=0, dtype=np.int32)
    return total


def nearest(pieces: Sequence[Words], liars: int, bits: int) -> list[int]:
    """Which n - liars updates multi-Krum takes, in the order of their scores."""
    n = len(pieces)
    distances = [[0] * n for _ in range(n)]
    for a in range(0, pieces[0].size, BLOCK):
        rows = _cut([piece[a : a + BLOCK] for piece in pieces], bits)
        for i in range(n):
            for j in range(i):
                distances[i][j] += _squared_distance(rows[i], rows[j])
    for i in range(n):
        for j in range(i):
            distances[j][i] = distances[i][j]
    scores = [sum(sorted(row[:i] + row[i + 1 :])[: n - liars - 2]) for i, row in enumerate(distances)]
    ties = [sha256(np.ascontiguousarray(piece).data).digest() for piece in pieces]
    return sorted(range(n), key=lambda i: (scores[i], ties[i]))[: n - liars]


def _squared_distance(one: Signed, other: Signed) -> int:
    """Exact: a square has up to 62 bits, so its halves are added up apart."""
    difference = one.astype(np.int64) - other
    squares = (difference * difference).view(np.uint64)
    return (int((squares >> np.uint64(32)).sum()) << 32) + int((squares & LOW).sum())
