"""What two linked daemons say beneath the rounds: who I am, records, round messages in their envelopes, keepalive.

    dialler                          listener
       -- TLS 1.3, both certificates --
       <- Welcome                        (accepted: only now is the link up; TLS 1.3 alone does not tell)
       -> Welcome
       -> Use                            (the lower PeerId keeps this link and closes its other ones)
       <-> Records, Post, bulk, Ping/Pong, Refusal
       <-> Moved                         (last frame on a path that is being replaced)
       <-> Bye                           (a clean stop: nobody waits for a timeout)

A frame is u32 little-endian length of what follows, u8 kind, body. CONTROL bodies are one canonical LinkMessage.
BULK is a BulkHeader; its raw bytes follow in DATA frames of at most 256 KiB; CONTROL frames may pass between them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from discod.wire.codec import decoder
from discod.wire.rounds import Signed

CONTROL, BULK, DATA = 0, 1, 2
MAX_RECORDS_BYTES = 512 << 10  # records in one message; the rest follows in the next


class _Link(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=True):
    pass


class Welcome(_Link, frozen=True, tag="welcome"):
    """First message of both sides; the link is up when it has been received."""

    protocol: int
    software: str
    name: str


class Use(_Link, frozen=True, tag="use"):
    """Of our two links, this is the one (said by the lower PeerId)."""


class Moved(_Link, frozen=True, tag="moved"):
    """The last frame on this path; the next one is on the other."""


class Ping(_Link, frozen=True, tag="ping"):
    n: int


class Pong(_Link, frozen=True, tag="pong"):
    n: int


class Bye(_Link, frozen=True, tag="bye"):
    why: str


class Known(_Link, frozen=True, tag="known"):
    """Hashes of the records of this mesh that I hold; answer with the ones I lack."""

    mesh: bytes
    hashes: tuple[bytes, ...]


class Records(_Link, frozen=True, tag="records"):
    """Signed records of one mesh (invites, memberships, admits, revocations, addresses, tasks)."""

    mesh: bytes
    records: tuple[bytes, ...]


class Post(_Link, frozen=True, tag="post"):
    """A signed round message. `to` empty: for the receiver; else please pass it on to that member."""

    to: bytes
    signed: Signed


class Refusal(_Link, frozen=True, tag="refusal"):
    """A message of yours was refused, or the transfer of `chunk` under `rid`; the link stays."""

    rid: bytes
    kind: str
    why: str
    chunk: int = 0


LinkMessage = Welcome | Use | Moved | Ping | Pong | Bye | Known | Records | Post | Refusal
link_decoder = decoder(LinkMessage)

BulkKind = Literal["piece", "sum", "snapshot"]


class BulkHeader(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`size` raw bytes follow in DATA frames. Refused unless exactly this is expected."""

    scope: bytes
    rid: bytes  # for a snapshot: the state hash
    kind: BulkKind
    chunk: int
    size: int


bulk_decoder = decoder(BulkHeader)
