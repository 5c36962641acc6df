"""The one place of a node where vectors are numbers: are they finite, and what comes of them. Pure; needs numpy.

    total  <-  total + sum(factor x weight x update) / sum(weight)

The factor scales an update that is behind; it is not in the denominator, so that a buffer full of old updates moves the
model less than one full of new ones (Nguyen et al. 2022, 2106.06639, algorithm 1). Summed in float64 in the order
given, rounded once: whoever has the same updates gets the same bits.

By a robust rule factor x update becomes words of the ring, and all count alike. The bound of the words is that of the
ring, from the peer in the middle: half of the updates must be false before one can stretch or shrink it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from discod.aggregators import RobustRule
from discod.errors import LocalError
from discod.ring import Codec, apply_mean, encode, next_bound
from discod.robust import join

Vector = npt.NDArray[np.float32]


def is_finite(vector: bytes | bytearray) -> bool:
    """Whether no value of a little-endian float32 vector is NaN or infinity."""
    return math.isfinite(np.frombuffer(vector, "<f4").sum(dtype=np.float64))


def advance(total: bytes, updates: Iterable[tuple[bytes, float, int]], rule: RobustRule | None = None) -> bytes:
    """The next total of `floats` little-endian float32: updates are (vector, factor, weight), all as long as it.

    By a rule all of them are in memory at once, else one.
    """
    before = np.frombuffer(total, "<f4")
    if rule is not None:
        return _joined(before, [(vector, factor) for vector, factor, _ in updates], rule)
    moved, weights = np.zeros(before.size, np.float64), 0
    for vector, factor, weight in updates:
        update = np.frombuffer(vector, "<f4")
        if update.size != before.size:
            raise LocalError(f"an update of {update.size} floats for {before.size}")
        moved += np.multiply(update, factor * weight, dtype=np.float64)
        weights += weight
    moved /= max(weights, 1)
    moved += before
    return moved.astype("<f4").tobytes()


def _joined(before: Vector, updates: Sequence[tuple[bytes, float]], rule: RobustRule) -> bytes:
    scaled = [np.frombuffer(vector, "<f4") * np.float32(factor) for vector, factor in updates]
    if any(update.size != before.size for update in scaled):
        raise LocalError("updates of other sizes")
    largest = sorted(float(np.abs(update).max()) for update in scaled)[(len(scaled) - 1) // 2]
    codec, zeros = Codec(len(scaled), next_bound(largest, 1.0)), np.zeros_like(before)
    pieces = [np.empty(before.size, np.uint32) for _ in scaled]
    for update, words in zip(scaled, pieces, strict=True):
        encode(update, zeros, codec, None, words)
    joined, after = np.empty(before.size, np.uint32), np.empty_like(before)
    join(pieces, joined, rule, codec.bits)
    apply_mean(before, joined, codec, after, rule.counted(len(scaled)))
    return after.tobytes()
