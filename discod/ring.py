"""Fixed point on the ring of integers modulo 2^32: what makes a sum of floats exact and independent of its order.

    encode   local - base, float32 (d,)  ->  words uint32 (d + 1,)   q = clip(rint(x s), -2^m, 2^m), s = 2^m / B
    mask     words                       ->  words + streams of this peer (masks.py), uniform to whoever lacks the keys
    combine  words of every peer of U    ->  their sum modulo 2^32, the masks that are left in it taken off
    decode   sum, base                   ->  base + mean

With m = floor(log2((2^31 - 1) / n)) the sum of n words fits an int32, so it is exact; the unweighted mean is off by at
most B 2^-(m+1) plus one float32 rounding. The last word carries the peer's weight w (1..65535), and x is scaled by
w / 65535 before it is encoded, so a weighted sum needs no second message (docs/protocol.md, fixed point). Under
differential privacy there is no weight word: all count alike, and vector and sum have d words.

All loops go block by block through memory that stays in the cache, and mask and hash the block while it is there;
numpy, hashlib and cryptography release the interpreter lock on blocks of this size, so they are run in threads; several
may work on different chunks of one vector. Only + - * / and rint are used, elementwise in float32, so every machine
computes the same bits. `extra` words, whole numbers that are summed as they are, may stand between vector and weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

import numpy as np
import numpy.typing as npt

from discod.errors import DiscodError, LocalError
from discod.masks import ALIGN as ALIGN
from discod.masks import Masks as Masks
from discod.masks import Streams
from discod.masks import Words as Words

Floats = npt.NDArray[np.float32]

BLOCK = 1 << 16  # words: 256 KiB, a block and its temporaries stay in the L2 cache
FULL_WEIGHT = 65535
SMALLEST_BOUND, LARGEST_BOUND = 2.0**-24, 2.0**24
NO_WORDS: Words = np.empty(0, np.uint32)
HEADROOM = 8.0  # the next bound is this times the power of two above the largest certified value


class NotFinite(DiscodError):
    """The update holds NaN or infinity at `index`; it is never sent."""

    def __init__(self, index: int) -> None:
        super().__init__(f"value {index} of the update is not finite")
        self.index = index


class Scale(Protocol):
    """What turns values into words, and what their sum can be: a Codec, or one with noise (discod.privacy.peers)."""

    @property
    def peers(self) -> int: ...

    @property
    def bound(self) -> float: ...

    @property
    def scale(self) -> float: ...

    def limit(self, included: int) -> int:
        """What no word of a sum of so many goes beyond."""


Noise = Callable[[Words], None]  # adds whole numbers to a block of words, in place

MARGIN = 2.0**-18  # clipped so much shorter that float32's rounding makes no update longer


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

    def limit(self, included: int) -> int:
        """What no word of a sum of so many goes beyond."""
        return included << self.bits


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


def _streams(masks: Masks | None, start: int, stop: int) -> Streams | None:
    return Streams(masks, start, min(BLOCK, stop - start)) if masks is not None and stop > start else None


def shrinking(local: Floats, base: Floats, clip: float) -> float:
    """By what `local - base`, (d,) float32, is multiplied so that its norm, over all of it, is at most `clip`.

    1 when it holds NaN or infinity: `encode` says where.
    """
    squares = 0.0
    for a, b in _blocks(0, local.size):
        with np.errstate(over="ignore", invalid="ignore"):
            x = np.subtract(local[a:b], base[a:b]).astype(np.float64)
            squares += float(x @ x)
    norm, most = math.sqrt(squares) if squares >= 0 else math.inf, clip * (1 - MARGIN)
    return most / norm if most < norm < math.inf else 1.0


def encode(
    local: Floats, base: Floats, codec: Scale, weight: int | None, out: Words, masks: Masks | None = None
) -> Encoded:
    """Write the words of `local - base`, weighted and masked, into `out`.

    local, base: (d,) float32; weight: 1..65535; out: (d + 1,) uint32, its last word is the weight. Without a weight
    all count alike, and out is (d,).

    Raises:
        NotFinite: an update holds NaN or infinity; `out` is then worthless.
    """
    chunks = [encode_chunk(local, base, codec, weight, out, chunk, masks) for chunk in range(codec.peers)]
    return Encoded(tuple(one.hashes[0] for one in chunks), sum(one.clipped for one in chunks))


def encode_chunk(
    local: Floats,
    base: Floats,
    codec: Scale,
    weight: int | None,
    out: Words,
    chunk: int,
    masks: Masks | None = None,
    extra: Words = NO_WORDS,
    shrink: float = 1.0,
    noise: Noise | None = None,
) -> Encoded:
    """Write one chunk of what `encode` writes, and nothing else of `out`: chunks may be encoded side by side.

    extra: (k,) uint32, between vector and weight. `shrink` multiplies the update; `noise` is added to its words before
    they are masked, and nothing is clipped then.

    Raises: NotFinite.
    """
    tail = extra if weight is None else np.append(extra, np.uint32(weight))
    if out.size != local.size + tail.size:
        raise LocalError(f"{out.size} words for {local.size} parameters")
    start, stop = chunk_bounds(out.size, codec.peers)[chunk]
    streams, state, clipped = _streams(masks, start, stop), sha256(), 0
    for a, b in _blocks(start, stop):
        part = slice(a, min(b, local.size))
        clipped += _encode_block(local, base, codec, _factor(weight) * shrink, out, part)
        if noise is not None:
            noise(out[part])
        if b > local.size:
            first = max(a, local.size)
            out[first:b] = tail[first - local.size : b - local.size]
        if streams is not None:
            streams.apply(out[a:b])
        state.update(out[a:b].data)
    return Encoded((state.digest(),), clipped)


def _factor(weight: int | None) -> float:
    return 1.0 if weight is None else weight / FULL_WEIGHT


def _encode_block(local: Floats, base: Floats, codec: Scale, factor: float, out: Words, part: slice) -> int:
    a, b = part.start, part.stop
    if a >= b:
        return 0
    with np.errstate(over="ignore", invalid="ignore"):  # infinity and NaN are found below, and named
        x = np.subtract(local[a:b], base[a:b])
    high, low = x.max(), x.min()  # NaN propagates through both
    if not (np.isfinite(high) and np.isfinite(low)):
        raise NotFinite(a + int(np.argmin(np.isfinite(x))))
    if factor != 1.0:
        x *= np.float32(factor)
    bound, clipped = np.float32(codec.bound), 0
    if max(high, -low) > bound:
        clipped = int(np.count_nonzero(np.abs(x) > bound))
        np.clip(x, -bound, bound, out=x)
    x *= np.float32(codec.scale)  # a power of two: exact
    np.rint(x, out=x)
    out[a:b].view(np.int32)[:] = x
    return clipped


def combine(pieces: Sequence[Words], out: Words, start: int = 0, masks: Masks | None = None) -> bytes:
    """Sum the pieces modulo 2^32, unmask the sum, and write it into `out`; returns its SHA-256.

    pieces, out: (k,) uint32; start: the word of the vector at which they begin; masks: what `unmask` takes.
    """
    state, streams = sha256(), _streams(masks, start, start + out.size)
    for a, b in _blocks(0, out.size):
        np.copyto(out[a:b], pieces[0][a:b])
        for piece in pieces[1:]:
            np.add(out[a:b], piece[a:b], out=out[a:b])
        if streams is not None:
            streams.apply(out[a:b])
        state.update(out[a:b].data)
    return state.digest()


def unmask(words: Words, start: int, masks: Masks) -> None:
    """Add the streams of `masks.plus` and subtract those of `masks.minus`, in place.

    words: (k,) uint32, a part of the vector that begins at its word `start`, a multiple of 16. What a peer has added
    stands in `minus` here, and the other way round.
    """
    streams = _streams(masks, start, start + words.size)
    for a, b in _blocks(0, words.size):
        if streams is not None:
            streams.apply(words[a:b])


def check_bound(total: Words, codec: Scale, included: int) -> bool:
    """Whether every word of a sum of `included` contributions is one that they can make: at most included 2^m.

    total: (d,) or (d + 1,) uint32; a sum of weights is far below the bound. What fails was not unmasked, or was made
    by somebody who does not keep to the codec.
    """
    limit, signed = codec.limit(included), total.view(np.int32)
    blocks = (signed[a:b] for a, b in _blocks(0, total.size))
    return all(-limit <= int(block.min()) and int(block.max()) <= limit for block in blocks)


@dataclass(frozen=True, slots=True)
class Applied:
    """SHA-256 of the new parameters, and the bound of the next round's codec."""

    hash: bytes
    next_bound: float


def apply_mean(
    base: Floats, total: Words, codec: Scale, out: Floats, peers: int | None = None, extra: int = 0
) -> Applied:
    """base + mean -> out, all (d,) float32.

    total: (d + 1,) uint32, its last word the sum of the weights; with `peers`, how many are in the sum and count
    alike, (d,); `extra` words after the first d are passed over. `out` may share memory with `total[:d]`: each block is
    read before it is written.
    """
    if total.size != base.size + extra + (peers is None):
        raise LocalError(f"a sum of {total.size} words for {base.size} parameters")
    weights = int(total[-1]) if peers is None else FULL_WEIGHT * peers
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
