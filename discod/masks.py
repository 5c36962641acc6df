"""Masks: keystreams that hide one peer's words from every other, and that cancel or are taken off in the sum.

    peer i sends   q_i + PRG(b_i) + sum_{j>i} PRG(s_ij) - sum_{j<i} PRG(s_ij)   (mod 2^32)

PRG(key) is AES-256-CTR: 16-byte counter blocks, big-endian, of which the first is 2; its bytes are read as
little-endian uint32. Word w lies in block 2 + w / 4, so a chunk, whose bounds are multiples of 16 words, is masked and
unmasked alone. A key belongs to one vector of one round and never masks another. Bonawitz et al. 2017, section 4.3;
docs/protocol.md has vectors.

Streams are made block by block and added while the block is in the cache; `cryptography` and numpy release the
interpreter lock meanwhile. (AES-GCM under a zero nonce yields the same stream, 18 % faster where there is AVX-512, but
only from its start.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from discod.errors import LocalError

Words = npt.NDArray[np.uint32]

ALIGN = 16  # words: chunk bounds are multiples of this, one 64-byte line
KEY_BYTES = 32
WORD_BYTES = 4
COUNTER_BYTES = 16  # one AES block
COUNTER_WORDS = COUNTER_BYTES // WORD_BYTES
FIRST_COUNTER = 2  # of word 0


@dataclass(frozen=True, slots=True, repr=False)
class Masks:
    """Keys, 32 bytes each, of the streams that are added and of those that are subtracted."""

    plus: tuple[bytes, ...]
    minus: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if any(len(key) != KEY_BYTES for key in (*self.plus, *self.minus)):
            raise LocalError(f"the key of a mask must have {KEY_BYTES} bytes")

    def __repr__(self) -> str:
        return f"<Masks +{len(self.plus)} -{len(self.minus)}>"


class Streams:
    """All streams of `masks` from word `start` on. One thread's; `most` is the largest number of words at once.

    Raises: LocalError when `start` is no multiple of 16.
    """

    def __init__(self, masks: Masks, start: int, most: int) -> None:
        if start % ALIGN:
            raise LocalError(f"word {start} is not at the start of a line")
        self._plus = [_stream(key, start) for key in masks.plus]
        self._minus = [_stream(key, start) for key in masks.minus]
        self._zeros = memoryview(bytes(most * WORD_BYTES))
        self._scratch = np.empty(most, "<u4")

    def apply(self, words: Words) -> None:
        """Add and subtract every stream, in place; the next call goes on where this one ended."""
        zeros, stream = self._zeros[: words.size * WORD_BYTES], self._scratch[: words.size]
        octets = stream.view(np.uint8).data
        for encryptor in self._plus:
            encryptor.update_into(zeros, octets)
            np.add(words, stream, out=words)
        for encryptor in self._minus:
            encryptor.update_into(zeros, octets)
            np.subtract(words, stream, out=words)


def _stream(key: bytes, start: int) -> CipherContext:
    counter = FIRST_COUNTER + start // COUNTER_WORDS
    return Cipher(AES256(key), CTR(counter.to_bytes(COUNTER_BYTES, "big"))).encryptor()
