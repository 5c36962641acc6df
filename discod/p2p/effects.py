"""What a round machine asks its shell to do. Effects are performed in the order in which they are returned."""

from __future__ import annotations

from dataclasses import dataclass

from discod.masks import Masks
from discod.wire.rounds import Certificate, Head, Signed


@dataclass(frozen=True, slots=True)
class Send:
    """Hand a signed message to `to`, or to `via`, which passes it on, where there is no link to `to`."""

    to: bytes
    signed: Signed
    via: bytes | None = None


@dataclass(frozen=True, slots=True)
class SendPiece:
    """Send the words of my own chunk `chunk` to an owner, as bulk."""

    to: bytes
    rid: bytes
    chunk: int


@dataclass(frozen=True, slots=True)
class SendSum:
    """Send the words of the sum of `chunk` to `to`, as bulk."""

    to: bytes
    rid: bytes
    chunk: int


@dataclass(frozen=True, slots=True)
class SendSnapshot:
    """Send the parameters of my certified base `state` to `to`, as bulk."""

    to: bytes
    state: bytes


@dataclass(frozen=True, slots=True)
class Open:
    """An attempt begins: make room for its buffers. `roster` is sorted; the base is the current one."""

    rid: bytes
    roster: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Contribute:
    """Encode the update (secure: under `masks`), commit its spent record, then answer `contributed(rid, hashes)`."""

    rid: bytes
    masks: Masks | None


@dataclass(frozen=True, slots=True)
class Combine:
    """Sum the pieces of `chunk` over exactly these peers, take `opening` off; answer `combined(rid, chunk, hash)`."""

    rid: bytes
    chunk: int
    included: tuple[bytes, ...]
    opening: Masks | None


@dataclass(frozen=True, slots=True)
class Apply:
    """All sums are here: make the new joint state, fsync it, then answer `applied(rid, head)`.

    `sums`: the hash of each chunk's sum (empty for an empty chunk), for an owner may have sent others before.
    `included`: whose updates are in them, as far as this peer has heard.
    """

    rid: bytes
    sums: tuple[bytes, ...]
    included: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Fetch:
    """Expect the snapshot of `head` from `peer` (an Ask for it goes out as well); answer `fetched(head)`."""

    peer: bytes
    head: Head


@dataclass(frozen=True, slots=True)
class Adopt:
    """The base is now the state of `head`: the applied one of attempt `rid`, or (rid None) the fetched one.

    The certificate and the base go to disk in one transaction. `keep_update`: an unspent update moves to the new base
    (local := new + local - old); a spent one is dropped (local := new), for it may be in the sum already.
    """

    head: Head
    certificate: Certificate
    rid: bytes | None
    keep_update: bool


@dataclass(frozen=True, slots=True)
class Close:
    """Attempt `rid` is over here (certified, lost or left): its buffers may go, its candidate state may stay."""

    rid: bytes
    reason: str
    spent: bool  # its Manifest left: go on training before the next one


@dataclass(frozen=True, slots=True)
class Retrain:
    """Three Manifests under one base came to nothing: local := base, train anew after `pause` seconds."""

    pause: float


@dataclass(frozen=True, slots=True)
class Note:
    """Something a person may want to know: a stable event name and its fields."""

    event: str
    peer: bytes | None = None
    text: str = ""


Effect = (
    Send
    | SendPiece
    | SendSum
    | SendSnapshot
    | Open
    | Contribute
    | Combine
    | Apply
    | Fetch
    | Adopt
    | Close
    | Retrain
    | Note
)
