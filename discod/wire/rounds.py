"""What the peers of one task sign and say to each other; docs/protocol.md is the normative text.

    i -> all      Advert, Links            (while local training runs)
    leader -> all Roster                   (the attempt: its hash is the round id)
    i -> j        Shares                   (secure: my secrets, dealt to all)
    i -> all      Have                     (I answer this roster; secure: whose shares I hold)
    leader -> all Start                    (secure: the set that masks with one another)
    i -> all      Manifest                 (hashes of my chunks)      ... bulk: piece, i -> owner
    owner -> all  Receipt                  (whose pieces I hold)
    leader -> all Propose | Reassign       (the set U the sum will be over)
    i -> all      View                     (the leader is silent)
    i -> all      Consent                  (to exactly this U)
    i -> all      Unmask                   (secure: my shares of what opens this sum)
    owner -> all  Sum                      (hash of my chunk's sum)   ... bulk: sum, owner -> all
    i -> all      Done                     (hash of the new joint state)
    i <-> j       Ask / State              (certificates)             ... bulk: snapshot

Every one of them travels as `Signed`: canonical `Envelope` bytes and an Ed25519 signature over the kind's label and
their hash. Bulk is never signed directly: a signed Manifest, Sum or certificate holds its hash.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec

from discod.errors import Broken
from discod.wire.codec import HASH_BYTES, PROTOCOL_VERSION, SIGNATURE_BYTES, check_hash, decode, decoder, digest, encode

NO_RID = bytes(HASH_BYTES)  # the rid of messages that belong to no attempt
MAX_ROSTER = 128
MAX_CHUNKS = MAX_ROSTER
MAX_HEADERS = 64  # rounds of certificates a peer keeps and sends
Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]  # of rounds, views, chunks, peers; anything else is no message


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A body; its `kind` is in the envelope."""

    kind: ClassVar[str] = ""


class Signed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Canonical Envelope bytes and the sender's signature over them."""

    envelope: bytes
    signature: bytes


class Envelope(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is signed. `slot` makes one (kind, rid, sender) distinct per view, chunk or sequence number."""

    version: int
    kind: str
    scope: bytes  # H(mesh, task): messages of one task in one mesh
    rid: bytes  # round id; for an Advert its era; NO_RID where there is none
    sender: bytes  # PeerId
    slot: int
    body: bytes  # canonical bytes of the Message


class RoundKeys(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What one Advert promises for a secure sum; fresh with it."""

    mask: bytes  # X25519 public key: pair masks
    box: bytes  # X25519 public key: shares
    commitment: bytes  # to the seed of the own mask


class Advert(Message, frozen=True):
    """I train on this base and can be in one roster. Fresh for every attempt."""

    kind: ClassVar[str] = "advert"
    seq: int
    nonce: bytes  # 16 bytes
    round: Count  # of the base
    base: bytes  # hash of the joint state I train from
    members: bytes  # hash of my member set
    lost: tuple[tuple[bytes, Count], ...]  # (leader, rounds I lost under it on this base)
    keys: RoundKeys | None = None  # secure only


class Links(Message, frozen=True):
    """Whom I am linked with, where I stand, and whether I train. In no round id: the latest counts. Slot is seq."""

    kind: ClassVar[str] = "links"
    seq: int
    peers: tuple[bytes, ...]
    round: Count
    base: bytes
    training: bool  # False: I have finished, or only fetch and serve


class Roster(Message, frozen=True):
    """The signed Adverts of the peers of this attempt, sorted by PeerId."""

    kind: ClassVar[str] = "roster"
    adverts: tuple[Signed, ...]


class Shares(Message, frozen=True):
    """My shares for one peer, which only it can open. Slot is its place in the roster; secure only."""

    kind: ClassVar[str] = "shares"
    box: bytes


class Have(Message, frozen=True):
    """I answer this roster and no other with the Advert it holds. Secure: whose shares I hold; slot counts up."""

    kind: ClassVar[str] = "have"
    bitmap: bytes  # empty for `mean`


class Start(Message, frozen=True):
    """These peers mask with one another: each holds the shares of all, as their Haves say. Secure only."""

    kind: ClassVar[str] = "start"
    started: bytes  # bitmap over the roster: U1
    haves: tuple[Signed, ...]


class Manifest(Message, frozen=True):
    """SHA-256 of each of my chunks, in chunk order; sending it spends the update."""

    kind: ClassVar[str] = "manifest"
    start: bytes  # u1h, the hash of the set that started
    chunks: tuple[bytes, ...]


class Receipt(Message, frozen=True):
    """I hold the valid piece of `chunk` of each of these (peer, manifest hash). Cumulative; slot counts up."""

    kind: ClassVar[str] = "receipt"
    chunk: Count
    pieces: tuple[tuple[bytes, bytes], ...]


class Propose(Message, frozen=True):
    """Sum over exactly U, with the manifests and receipts this rests on. Slot is the view."""

    kind: ClassVar[str] = "propose"
    view: Count
    included: bytes  # bitmap over the roster
    manifests: bytes  # mh: hash of the manifests of U, in roster order
    gone: bytes  # bitmap of the peers whose chunks pass to the next owner in order
    evidence: tuple[Signed, ...]


class Reassign(Message, frozen=True):
    """These peers are gone as owners: send the pieces of their chunks to the next owner in order. Slot counts up."""

    kind: ClassVar[str] = "reassign"
    view: Count
    gone: bytes  # bitmap over the roster


class View(Message, frozen=True):
    """I have given up on the leaders before view `view`; what I consented to, if anything. Slot is the view."""

    kind: ClassVar[str] = "view"
    view: Count
    consent: Signed | None
    propose: Signed | None


class Consent(Message, frozen=True):
    """I agree to open exactly the sum that `uh` names; one per rid, ever."""

    kind: ClassVar[str] = "consent"
    uh: bytes


class Unmask(Message, frozen=True):
    """My part of opening the sum that `uh` names, and why I may show it. Secure only; one per rid, ever.

    One share for each peer of U1, in order: of its own mask where it is in U, of its mask key where it is not. There is
    no way to say both of one peer.
    """

    kind: ClassVar[str] = "unmask"
    uh: bytes
    shares: tuple[bytes, ...]
    propose: Signed
    consents: tuple[Signed, ...]  # t of them, mine included


class Sum(Message, frozen=True):
    """SHA-256 of the words of this chunk's sum. Slot is the chunk."""

    kind: ClassVar[str] = "sum"
    uh: bytes
    chunk: Count
    hash: bytes


class Done(Message, frozen=True):
    """I hold the joint state with this hash on disk; one per rid, ever."""

    kind: ClassVar[str] = "done"
    state: bytes


class Leave(Message, frozen=True):
    """I am out of this attempt, as if lost."""

    kind: ClassVar[str] = "leave"
    reason: str


class Certificate(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """t equal Dones of a roster: proof, for anybody with the member records, that `state` follows `parent`."""

    round: Count
    parent: bytes
    state: bytes
    adverts: tuple[Signed, ...]
    threshold: Count
    dones: tuple[Signed, ...]


class Ask(Message, frozen=True):
    """Send me your certificates (and the snapshot of `state`, when it is not empty). Slot counts up."""

    kind: ClassVar[str] = "ask"
    seq: int
    state: bytes


class State(Message, frozen=True):
    """My chain of certificates, oldest first; the last one is my base."""

    kind: ClassVar[str] = "state"
    seq: int
    headers: tuple[Certificate, ...]
    head: bytes  # canonical Head of the base


class Head(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a joint state is besides its parameters; its hash names the state."""

    scope: bytes
    round: Count
    parent: bytes  # hash of the state before; zeros for round 0
    bound: float  # of the next round's fixed point
    parameters: bytes  # SHA-256 of the (d,) float32 vector


class Proof(Message, frozen=True):
    """Two messages that no honest peer signs both; their signer stays out of rosters for a day."""

    kind: ClassVar[str] = "proof"
    first: Signed
    second: Signed


BODIES: dict[str, type[Message]] = {
    body.kind: body
    for body in (
        Advert,
        Links,
        Roster,
        Shares,
        Have,
        Start,
        Manifest,
        Receipt,
        Propose,
        Reassign,
        View,
        Consent,
        Unmask,
        Sum,
        Done,
        Leave,
        Ask,
        State,
        Proof,
    )
}
_bodies = {kind: decoder(body) for kind, body in BODIES.items()}
_envelope = decoder(Envelope)
head_decoder = decoder(Head)


def sign_label(kind: str) -> bytes:
    """The domain of a signature: version and kind, so that no signature can be read as one of another kind."""
    return f"discod/sig/{PROTOCOL_VERSION}|{kind}".encode()


def message_hash(signed: Signed) -> bytes:
    """The name of a signed message in other messages (manifest hashes, round ids)."""
    return digest("discod/message/1", signed.envelope)


def head_hash(head: Head) -> bytes:
    """The name of a joint state."""
    return digest("discod/state/1", encode(head))


def make_envelope(scope: bytes, rid: bytes, sender: bytes, body: Message, slot: int = 0) -> Envelope:
    """Wrap a body; the signature is added by whoever holds the key."""
    return Envelope(PROTOCOL_VERSION, body.kind, scope, rid, sender, slot, encode(body))


def parse_envelope(signed: Signed) -> Envelope:
    """Read, but do not believe, an envelope.

    Raises:
        Broken: wrong lengths or not an envelope.  Refused: not canonical, or of another protocol version.
    """
    if len(signed.signature) != SIGNATURE_BYTES:
        raise Broken(None, "signature of the wrong length")
    envelope: Envelope = decode(_envelope, signed.envelope)
    for what, value in (("scope", envelope.scope), ("rid", envelope.rid), ("sender", envelope.sender)):
        check_hash(value, what)
    if envelope.version != PROTOCOL_VERSION:
        raise Broken(envelope.sender, f"protocol version {envelope.version}, this is {PROTOCOL_VERSION}")
    return envelope


def parse_body(envelope: Envelope) -> Message:
    """The body of an envelope whose signature was checked.

    Raises:
        Broken: an unknown kind or not that kind's shape.  Refused: not canonical.
    """
    if (known := _bodies.get(envelope.kind)) is None:
        raise Broken(envelope.sender, f"unknown kind of message {envelope.kind[:32]!r}")
    message: Message = decode(known, envelope.body)
    return message
