"""The signed records of a mesh (protocol.md 1), each verifiable alone and offline.

  MeshInfo, Invite, Revocation   signed by the root         Membership   by the invite's key and the peer's
  Admit                          by one member or the root   Addresses    by their peer
  TaskOffer                      by an admin or the root

A record travels as msgpack `[body, signatures]`, where `body` is the canonical msgpack of a tagged array-like
struct; both are re-encoded and compared on receipt. Its hash is over the body alone: another signature on the same
statement is not another record. Who may say what is decided in members.py; here only sizes, form and signatures are
checked. Times are Unix seconds.
"""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Annotated, Literal, get_args

from msgspec import Meta, Struct

from discod.errors import Broken, LocalError, Refused
from discod.identity.ids import peer_id
from discod.identity.keys import SIGNATURE_BYTES, Identity, verify
from discod.wire.codec import decode, decoder, encode

MAX_TASK_BYTES = 65_536
MAX_RECORD_BYTES = MAX_TASK_BYTES + 1_024
MAX_USES = 1_000
MAX_ADDRESSES = 8
MAX_NAME = 64  # characters
ADDRESS_TTL = 24 * 3600  # seconds

Role = Literal["trainer", "observer", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)

Key = Annotated[bytes, Meta(min_length=32, max_length=32)]
Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
Time = Annotated[int, Meta(ge=0, lt=1 << 48)]
Slot = Annotated[int, Meta(ge=0, lt=MAX_USES)]


class MeshInfo(Struct, frozen=True, array_like=True, tag="mesh"):
    """A mesh begins: its root key, its name, the key of the peer that made it."""

    root: Key
    name: Name
    creator: Key


class Invite(Struct, frozen=True, array_like=True, tag="invite"):
    """The root lets up to `uses` peers in that prove the invite key; `approve`: an admin must agree to each."""

    root: Key
    role: Role
    uses: Annotated[int, Meta(ge=1, le=MAX_USES)]
    expires: Time
    approve: bool
    key: Key


class Membership(Struct, frozen=True, array_like=True, tag="membership"):
    """A peer takes one slot of an invite."""

    mesh: Hash
    invite: Key
    slot: Slot
    peer: Key
    name: Name
    joined: Time


class Admit(Struct, frozen=True, array_like=True, tag="admit"):
    """Member `by` saw the membership (its record hash) at `time`, while the invite was neither expired nor revoked."""

    mesh: Hash
    membership: Hash
    by: Key
    time: Time


class Revocation(Struct, frozen=True, array_like=True, tag="revocation"):
    """The root takes back a peer (target: its public key) or an invite (its key); an invite's stops later admits."""

    root: Key
    kind: Literal["peer", "invite"]
    target: Key
    time: Time


class Addresses(Struct, frozen=True, array_like=True, tag="addresses"):
    """Where a peer listens, "host:port" each; a higher seq replaces a lower one. `time` + `ttl` is when they lapse."""

    mesh: Hash
    peer: Key
    seq: Annotated[int, Meta(ge=0, lt=1 << 62)]
    entries: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=262)], ...], Meta(max_length=MAX_ADDRESSES)]
    time: Time
    ttl: Annotated[int, Meta(ge=1, le=ADDRESS_TTL)]


class TaskOffer(Struct, frozen=True, array_like=True, tag="task"):
    """An admin or the root publishes a task; `task` is its canonical encoding."""

    mesh: Hash
    task: Annotated[bytes, Meta(min_length=1, max_length=MAX_TASK_BYTES)]
    publisher: Key
    time: Time


Body = MeshInfo | Invite | Membership | Admit | Revocation | Addresses | TaskOffer


class Record(Struct, frozen=True):
    """A verified record: its body, its hash, and the bytes it travels as."""

    body: Body
    hash: bytes
    data: bytes

    @property
    def mesh(self) -> bytes:
        """The id of the mesh it speaks of, (32,) bytes."""
        return mesh_of(self.body)


class _Sealed(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    body: Annotated[bytes, Meta(max_length=MAX_RECORD_BYTES)]
    signatures: Annotated[tuple[Signature, ...], Meta(min_length=1, max_length=2)]


_SEALED = decoder(_Sealed)
_BODY = decoder(Body)


def mesh_of(body: Body) -> bytes:
    """Return the (32,) id of the mesh a record speaks of."""
    return peer_id(body.root) if isinstance(body, MeshInfo | Invite | Revocation) else body.mesh


def signers(body: Body) -> tuple[tuple[bytes, bytes], ...]:
    """Return the (label, public key) pairs whose signatures the record needs, in order."""
    match body:
        case MeshInfo():
            return ((b"discod/mesh/1", body.root),)
        case Invite():
            return ((b"discod/invite/1", body.root),)
        case Membership():
            return ((b"discod/membership-invite/1", body.invite), (b"discod/membership-peer/1", body.peer))
        case Admit():
            return ((b"discod/admit/1", body.by),)
        case Revocation():
            return ((b"discod/revocation/1", body.root),)
        case Addresses():
            return ((b"discod/addresses/1", body.peer),)
        case TaskOffer():
            return ((b"discod/task-offer/1", body.publisher),)


def sign_record(body: Body, *keys: Identity) -> bytes:
    """Sign a record with the keys that `signers` names, in that order, and return the bytes it travels as.

    Raises: LocalError when a key is the wrong one or the body breaks a limit.
    """
    encoded = encode(body)
    needed = signers(body)
    if [key.public for key in keys] != [public for _, public in needed]:
        raise LocalError(f"wrong keys for a {type(body).__name__}")
    signatures = tuple(key.sign(label, encoded) for key, (label, _) in zip(keys, needed, strict=True))
    data = encode(_Sealed(encoded, signatures))
    try:
        return parse_record(data).data
    except (Broken, Refused) as error:
        raise LocalError(f"we made a bad {type(body).__name__}: {error.why}") from None


def parse_record(data: bytes) -> Record:
    """Check size, form, canonical encoding and signatures of a received record.

    Raises: Broken for a bad size, form or signature, Refused when it is not canonical or holds a name we do not show.
    """
    sealed: _Sealed = decode(_SEALED, data, MAX_RECORD_BYTES)
    body: Body = decode(_BODY, sealed.body, MAX_RECORD_BYTES)
    _check_text(body)
    _check_signatures(body, sealed)
    return Record(body, record_hash(sealed.body), data)


def record_hash(body: bytes) -> bytes:
    """Return the (32,) hash that names a record, from its encoded body."""
    return hashlib.sha256(b"discod/record/1" + body).digest()


def is_name(text: str) -> bool:
    """Say whether `text` may name a peer or mesh: 1-64 printable characters, no spaces at the ends, NFC."""
    return (
        1 <= len(text) <= MAX_NAME
        and text.isprintable()
        and text == text.strip()
        and unicodedata.is_normalized("NFC", text)
    )


def _check_text(body: Body) -> None:
    if isinstance(body, MeshInfo | Membership) and not is_name(body.name):
        raise Refused(None, "a name with control characters or outer spaces")
    if isinstance(body, Addresses) and not all(entry.isascii() and entry.isprintable() for entry in body.entries):
        raise Refused(None, "an address that is not printable ASCII")


def _check_signatures(body: Body, sealed: _Sealed) -> None:
    needed = signers(body)
    if len(sealed.signatures) != len(needed):
        raise Refused(None, f"a record with {len(sealed.signatures)} signatures; {len(needed)} are needed")
    for (label, public), signature in zip(needed, sealed.signatures, strict=True):
        if not verify(public, label, sealed.body, signature):
            raise Broken(None, f"a {type(body).__name__} with a bad signature")
