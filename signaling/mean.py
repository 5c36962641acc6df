"""The one place of a node where vectors are numbers: are they finite, and what is their mean. Pure; needs numpy.

    total  <-  total + sum(factor x weight x update) / sum(weight)

The factor scales an update that is behind; it is not in the denominator, so that a buffer full of old updates moves the
model less than one full of new ones (Nguyen et al. 2022, 2106.06639, algorithm 1). Summed in float64 in the order
given, rounded once: whoever has the same updates gets the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from discod.errors import LocalError


def is_finite(vector: bytes | bytearray) -> bool:
    """Whether no value of a little-endian float32 vector is NaN or infinity."""
    return math.isfinite(np.frombuffer(vector, "<f4").sum(dtype=np.float64))


def advance(total: bytes, updates: Iterable[tuple[bytes, float, int]]) -> bytes:
    """The next total of `floats` little-endian float32: updates are (vector, factor, weight), all as long as it."""
    before = np.frombuffer(total, "<f4")
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
