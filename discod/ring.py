"""Fixed point on the ring of integers modulo 2^32: what makes a sum of floats exact and independent of its order.

    encode   local - base, float32 (d,)  ->  words uint32 (d + 1,)   q = clip(rint(x s), -2^m, 2^m), s = 2^m / B
    combine  words of every peer of U    ->  their sum modulo 2^32
    decode   sum, base                   ->  base + mean

With m = floor(log2((2^31 - 1) / n)) the sum of n words fits an int32, so it is exact; the unweighted mean is off by at
most B 2^-(m+1) plus one float32 rounding. The last word carries the peer's weight w (1..65535), and x is scaled by
w / 65535 before it is encoded, so a weighted sum needs no second message (docs/protocol.md, fixed point).

All loops go block by block through memory that stays in the cache, and hash the block while it is there; numpy and
hashlib release the interpreter lock on blocks of this size, so they are run in threads. Only + - * / and rint are used,
elementwise in float32, so every machine computes the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import numpy.typing as npt

from discod.errors import DiscodError, LocalError

Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint32]

BLOCK = 1 << 16  # words: 256 KiB, a block and its temporaries stay in the L2 cache
ALIGN = 16  # words: chunk bounds are multiples of this, one 64-byte line
FULL_WEIGHT = 65535
SMALLEST_BOUND, LARGEST_BOUND = 2.0**-24, 2.0**24
HEADROOM = 8.0  # the next bound is this times the power of two above the largest certified value


class NotFinite(DiscodError):
    """The update holds NaN or infinity at `index`; it is never sent."""

    def __init__(self, index: int) -> None:
        super().__init__(f"value {index} of the update is not finite")
        self.index = index


@dataclass(frozen=True, slots=True)
class Codec:
    """The scale of one round: `peers` contributions at most, each value within +-`bound` (a power of two)."""

    peers: int
    bound: float

    @property
    def bits(self) -> int:
        """m: a word lies in -2^m .. 2^m, so that `peers` of them fit an int32."""
        return int(math.log2((2**31 - 1) // self.peers))

    @property
    def scale(self) -> float:
        return float(2.0**self.bits / self.bound)


@dataclass(frozen=True, slots=True)
class Encoded:
    """SHA-256 of each chunk of the words, and how many words met the bound."""

    hashes: tuple[bytes, ...]
    clipped: int


def chunk_bounds(words: int, chunks: int) -> tuple[tuple[int, int], ...]:
    """Cut `words` into `chunks` ranges at multiples of 16 words, nearly equal; the last ones may be empty."""
    lines = -(-words // ALIGN)
    size = -(-lines // chunks) * ALIGN
    return tuple((min(c * size, words), min((c + 1) * size, words)) for c in range(chunks))


def weight_word(count: int, cap: int) -> int:
    """The weight of `count` samples, capped so that a peer that claims 10^9 gains nothing: 1..65535."""
    return max(1, round(FULL_WEIGHT * min(count, cap) / cap))


def _blocks(start: int, stop: int) -> list[tuple[int, int]]:
    return [(a, min(a + BLOCK, stop)) for a in range(start, stop, BLOCK)]


def encode(local: Floats, base: Floats, codec: Codec, weight: int, out: Words) -> Encoded:
    """Write the words of `local - base`, weighted, into `out`.

    local, base: (d,) float32; weight: 1..65535; out: (d + 1,) uint32, its last word is the weight.

    Raises:
        NotFinite: an update holds NaN or infinity; `out` is then worthless.
    """
    if out.size != local.size + 1:
        raise LocalError(f"{out.size} words for {local.size} parameters")
    out[-1] = weight
    hashes, clipped = [], 0
    for start, stop in chunk_bounds(out.size, codec.peers):
        state = sha256()
        for a, b in _blocks(start, stop):
            clipped += _encode_block(local, base, codec, weight, out, a, min(b, local.size))
            state.update(out[a:b].data)
        hashes.append(state.digest())
    return Encoded(tuple(hashes), clipped)


def _encode_block(local: Floats, base: Floats, codec: Codec, weight: int, out: Words, a: int, b: int) -> int:
    if a >= b:
        return 0
    with np.errstate(over="ignore", invalid="ignore"):  # infinity and NaN are found below, and named
        x = np.subtract(local[a:b], base[a:b])
    high, low = x.max(), x.min()  # NaN propagates through both
    if not (np.isfinite(high) and np.isfinite(low)):
        raise NotFinite(a + int(np.argmin(np.isfinite(x))))
    if weight != FULL_WEIGHT:
        x *= np.float32(weight / FULL_WEIGHT)
    bound, clipped = np.float32(codec.bound), 0
    if max(high, -low) > bound:
        clipped = int(np.count_nonzero(np.abs(x) > bound))
        np.clip(x, -bound, bound, out=x)
    x *= np.float32(codec.scale)  # a power of two: exact
    np.rint(x, out=x)
    out[a:b].view(np.int32)[:] = x
    return clipped


def combine(pieces: Sequence[Words], out: Words) -> bytes:
    """Sum the pieces, all (k,) uint32, modulo 2^32 into `out`; returns the SHA-256 of the sum."""
    state = sha256()
    for a, b in _blocks(0, out.size):
        np.copyto(out[a:b], pieces[0][a:b])
        for piece in pieces[1:]:
            np.add(out[a:b], piece[a:b], out=out[a:b])
        state.update(out[a:b].data)
    return state.digest()


@dataclass(frozen=True, slots=True)
class Applied:
    """SHA-256 of the new parameters, and the bound of the next round's codec."""

    hash: bytes
    next_bound: float


def apply_mean(base: Floats, total: Words, codec: Codec, out: Floats) -> Applied:
    """base + mean -> out, all (d,) float32; total: (d + 1,) uint32, its last word the sum of the weights.

    `out` may share memory with `total[:-1]`: each block is read before it is written.
    """
    weights = int(total[-1])
    step = np.float32(FULL_WEIGHT / (codec.scale * weights))
    state, largest = sha256(), np.float32(0)
    for a, b in _blocks(0, base.size):
        mean = total[a:b].view(np.int32).astype(np.float32)
        mean *= step
        largest = max(largest, mean.max(), -mean.min())
        np.add(base[a:b], mean, out=out[a:b])
        state.update(out[a:b].data)
    return Applied(state.digest(), next_bound(float(largest), codec.bound))


def next_bound(largest: float, bound: float) -> float:
    """8 x the power of two above the largest value of the last certified update; unchanged when that was zero."""
    if not 0 < largest < math.inf:
        return bound
    return min(max(HEADROOM * 2.0 ** (math.floor(math.log2(largest)) + 1), SMALLEST_BOUND), LARGEST_BOUND)


def hash_floats(values: Floats) -> bytes:
    """SHA-256 of the little-endian bytes of a (d,) float32 vector."""
    return sha256(np.ascontiguousarray(values, dtype="<f4").data).digest()
