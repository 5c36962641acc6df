"""How 32-byte ids are written for people: Crockford base32, a check symbol after every 13 symbols.

The check symbol is a sum over GF(32) with powers of x as weights (x^5 = x^2 + 1, primitive), begun with the block's
number: it finds every single mistyped symbol, every swap of two symbols of a block, and blocks in the wrong order.
(Luhn mod 32 misses some swaps; Crockford's own mod 37 needs symbols that a shell interprets.) The short form is the
first eight symbols: for the eye only, never accepted as an id.
"""

from __future__ import annotations

import hashlib

from discod.errors import BadData

ID_BYTES = 32
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
BLOCK = 13  # data symbols before each check symbol
GROUP = 4  # symbols between hyphens on screen

_VALUE = {symbol: value for value, symbol in enumerate(ALPHABET)} | {"O": 0, "I": 1, "L": 1}


def peer_id(public: bytes) -> bytes:
    """Return the id of an Ed25519 public key, (32,) bytes: H(public key). Mesh and signaling ids are made alike."""
    return hashlib.sha256(public).digest()


def show_id(value: bytes) -> str:
    """Return the full written form, 14 groups of 4 symbols joined by hyphens."""
    text = to_symbols(value)
    return "-".join(text[i : i + GROUP] for i in range(0, len(text), GROUP))


def short_id(value: bytes) -> str:
    """Return the first 40 bits as `K7QX-4M2P`; the full form begins with the same symbols."""
    text = to_symbols(value)
    return f"{text[:4]}-{text[4:8]}"


def parse_id(text: str) -> bytes:
    """Read a full id; case, hyphens, spaces, O for 0 and I or L for 1 do not matter.

    Raises: BadData (bad-id), naming the block that the check symbol disproves.
    """
    return from_symbols(text, ID_BYTES)


def to_symbols(value: bytes) -> str:
    """Return `value` as symbols with a check symbol after every 13, no hyphens."""
    count = symbol_count(len(value))
    number = int.from_bytes(value, "big") << (count * 5 - len(value) * 8)
    digits = [(number >> (5 * (count - 1 - i))) & 31 for i in range(count)]
    blocks = [digits[i : i + BLOCK] for i in range(0, count, BLOCK)]
    return "".join(ALPHABET[d] for n, block in enumerate(blocks) for d in [*block, _check(n, block)])


def from_symbols(text: str, size: int, *, what: str = "id", secret: bool = False) -> bytes:
    """Read `size` bytes written by to_symbols. With `secret` no symbol of `text` enters the error.

    Raises: BadData (bad-id).
    """
    digits = _digits(text, what, secret)
    want = symbol_count(size) + -(-symbol_count(size) // BLOCK)
    if len(digits) != want:
        raise _bad(what, f"it has {len(digits)} symbols, {want} are needed")
    data: list[int] = []
    for n in range(0, want, BLOCK + 1):
        *block, check = digits[n : n + BLOCK + 1]
        if _check(n // (BLOCK + 1), block) != check:
            wrong = "" if secret else f": {''.join(ALPHABET[d] for d in [*block, check])}"
            raise _bad(what, f"a symbol between the {n + 1}th and the {n + len(block) + 1}th is mistyped{wrong}")
        data += block
    return _join(data, size, what)


def symbol_count(size: int) -> int:
    """Return how many data symbols `size` bytes need, check symbols apart."""
    return -(-size * 8 // 5)


def _digits(text: str, what: str, secret: bool) -> list[int]:
    digits = []
    for symbol in text.upper():
        if symbol in "- ":
            continue
        if symbol not in _VALUE:
            shown = "a character" if secret else repr(symbol)
            raise _bad(what, f"{shown} is not one of the symbols used ({ALPHABET})")
        digits.append(_VALUE[symbol])
    return digits


def _join(digits: list[int], size: int, what: str) -> bytes:
    number = 0
    for digit in digits:
        number = number << 5 | digit
    spare = len(digits) * 5 - size * 8
    if number & ((1 << spare) - 1):
        raise _bad(what, "its last symbol has bits set that mean nothing")
    return (number >> spare).to_bytes(size, "big")


def _check(number: int, block: list[int]) -> int:
    total = number + 1
    for digit in [*block, 0]:
        total = _times_x(total) ^ digit
    return total


def _times_x(value: int) -> int:
    return (value << 1) ^ (0b100101 if value & 16 else 0)


def _bad(what: str, why: str) -> BadData:
    return BadData(f"this is no {what}: {why}", "copy it again, whole", code="bad-id")
