"""Inputs made from seeds: bytes changed, dropped, doubled, spliced, and numbers that are large or negative."""

from __future__ import annotations

import random
from collections.abc import Sequence

WORDS = (
    b"\xff\xff\xff\xff",
    b"\x00",
    b"\x7f",
    b"\x80",
    b"\xc0",
    b"\xdc\xff\xff",
    b"\xde\xff\xff",
    b"\xcf" + b"\xff" * 8,
)
MOST_BYTES = 4096


def mutated(seeds: Sequence[bytes], seed: int) -> bytes:
    """One input, the same for the same arguments."""
    dice = random.Random(seed)
    data = bytearray(dice.choice(seeds) if seeds else b"")
    for _ in range(dice.choice((1, 1, 2, 4, 16))):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << dice.randrange(8)
            case 1 if at < len(data):
                data[at] = dice.randrange(256)
            case 2:
                del data[at : at + dice.randrange(1, 9)]
            case 3:
                data[at:at] = dice.choice(WORDS)
            case 4:
                data[at:at] = data[at : at + dice.randrange(1, 65)]
            case 5 if seeds:
                other = dice.choice(seeds)
                data[at:] = other[dice.randrange(len(other) + 1) :]
    return bytes(data[:MOST_BYTES])
