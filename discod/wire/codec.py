"""Bytes to structs and back, exactly one way: a message that does not re-encode to the same bytes is refused.

A canonical form is needed wherever bytes are hashed or signed; we take it everywhere, so that no message has two
spellings. Sizes are checked before anything is parsed.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, TypeVar

import msgspec

from discod.errors import Broken, Refused

PROTOCOL_VERSION = 1
HASH_BYTES = 32
SIGNATURE_BYTES = 64
MAX_CONTROL_BYTES = 1 << 20  # one control frame, and all early messages held for one peer
MAX_SIGNALING_BYTES = 64 << 10  # one WebSocket message
BULK_PIECE_BYTES = 256 << 10  # bulk travels in pieces of this size, so that control messages can pass between them
MAX_BULK_BYTES = 1 << 34  # one bulk transfer

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()


def encode(message: msgspec.Struct) -> bytes:
    """The canonical bytes of a message (msgpack; array-like structs, so that there are no keys to reorder)."""
    return _encoder.encode(message)


def decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    """A strict decoder for one struct type or union; make it once, at import."""
    return msgspec.msgpack.Decoder(kind)


def decode(decoder: msgspec.msgpack.Decoder[T], data: bytes | memoryview, limit: int = MAX_CONTROL_BYTES) -> T:
    """Parse canonical bytes.

    Raises:
        Broken: longer than `limit` bytes, or not a message at all.
        Refused: a message, but not in canonical form.
    """
    if len(data) > limit:
        raise Broken(None, f"message of {len(data)} bytes, at most {limit} are allowed")
    try:
        message = decoder.decode(data)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeDecodeError) as error:
        raise Broken(None, f"not a message: {error}") from None
    if _encoder.encode(message) != bytes(data):
        raise Refused(None, "message not in canonical form")
    return message


def digest(label: str, *parts: bytes) -> bytes:
    """SHA-256 over a label and length-prefixed parts: no two different calls hash the same bytes."""
    state = sha256(label.encode())
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.digest()


def check_hash(value: bytes, what: str) -> None:
    """Raises Broken unless `value` is 32 bytes long."""
    if len(value) != HASH_BYTES:
        raise Broken(None, f"{what} of {len(value)} bytes instead of {HASH_BYTES}")
