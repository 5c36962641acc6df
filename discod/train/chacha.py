"""Secret chance: 64-bit words and normal values from ChaCha20, for what must not be foreseen: noise, and who is drawn.

The key comes from the system's entropy, once for each worker, and never leaves it; tests give one of their own. numpy's
and the engine's generators are not for this: from a little of their output the rest can be computed.

Normal values are Box and Muller's (1958), two from each radius and angle: the radius in float64 from 52 bits, so that
tails reach 8.4 standard deviations (further out lie 2^-55 of all values), the angle in float32 from 23 bits, since the
result is a float32 in any case. What floating point leaves open: the values are a grid, coarser far out, and a sum with
one can have last bits that only some sums have (Mironov 2012). No defence is tried here. A secure sum rounds updates to
fixed point before anybody sees them, and a step's noise passes through further float operations on the way; a mean
without it shows a peer's update as it was rounded there. Pure: entropy is an argument.
"""

from __future__ import annotations

import math

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

KEY_BYTES = 32
NONCE = bytes(16)  # block counter 0 and nonce 0: a key is used for one stream
WORD_BYTES = 8
KEY_LASTS_BYTES = 1 << 37  # half of what the block counter can count; the next key is taken from the stream
ONE_64, ONE_32 = np.uint64(0x3FF << 52), np.uint32(0x7F << 23)  # the bits of 1.0: behind them a fraction in [0, 1)
TURN = np.float32(2 * math.pi)


class ChaCha:
    """The stream of one `key` (32 bytes), in order: whoever has read some of it never sees that again."""

    def __init__(self, key: bytes) -> None:
        assert len(key) == KEY_BYTES, "a key has 32 bytes"
        self._begin(key)

    def _begin(self, key: bytes) -> None:
        self._cipher, self._read = Cipher(algorithms.ChaCha20(key, NONCE), mode=None).encryptor(), 0

    def words(self, count: int) -> NDArray[np.uint64]:
        """(count,) words, uniform."""
        self._read += count * WORD_BYTES
        if self._read > KEY_LASTS_BYTES:
            self._begin(self._cipher.update(bytes(KEY_BYTES)))
        return np.frombuffer(self._cipher.update(bytes(count * WORD_BYTES)), "<u8")

    def chances(self, count: int, probability: float) -> NDArray[np.bool_]:
        """(count,) of which each is True with `probability`, to 2^-64, whatever the others are."""
        bound = int(probability * 2.0**64)
        if bound == 0:
            return np.zeros(count, np.bool_)
        chosen: NDArray[np.bool_] = self.words(count) <= np.uint64(min(bound, 1 << 64) - 1)
        return chosen

    def normals(self, count: int) -> NDArray[np.float32]:
        """(count,) values of mean 0 and standard deviation 1."""
        pairs = (count + 1) // 2
        words = self.words(pairs)
        angles = self.words((pairs + 1) // 2).view("<u4")[:pairs]
        uniform = 2.0 - ((words >> np.uint64(12)) | ONE_64).view(np.float64)  # in (0, 1]
        radius = np.sqrt(-2.0 * np.log(uniform)).astype(np.float32)
        angle = ((angles >> np.uint32(9)) | ONE_32).view(np.float32) * TURN
        result = np.empty(2 * pairs, np.float32)
        np.multiply(radius, np.cos(angle), out=result[:pairs])
        np.multiply(radius, np.sin(angle), out=result[pairs:])
        return result[:count]

    def integers(self, count: int, deviation: float) -> NDArray[np.int64]:
        """(count,) whole numbers: normal values of this standard deviation, rounded; for noise on a grid of integers.

        In float64, both radius and angle from 52 bits: float32 has too few for deviations above 2^16.
        """
        pairs = (count + 1) // 2
        unit = ((self.words(2 * pairs) >> np.uint64(12)) | ONE_64).view(np.float64)  # in [1, 2)
        radius = np.sqrt(-2.0 * np.log(2.0 - unit[:pairs]))
        angle = (unit[pairs:] - 1.0) * (2 * math.pi)
        values = np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))[:count]
        return np.rint(values * deviation).astype(np.int64)
