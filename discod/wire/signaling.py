"""What a daemon and the signaling node say: one WebSocket at /v1, one canonical message in each binary frame.

    daemon                                     node
       -> Knock                                       (a nonce, and the host as dialled)
       <- Hello                                       (the node's key, its signature over both, its own nonce)
       -> Find          <- Found                      (a newcomer: the records of its invite, by invite public key)
       -> Join          <- Room, then Present, Left   (who else is there)
       -> Publish                                     (members: the invites, so that newcomers find them)
       -> Signal        <- Signaled                   (opaque to the node; between peers it is a Whisper)
       -> Relay         <- Ticket to both             (each then opens another WebSocket:)
       -> Redeem        <- Spliced                    (from here on raw bytes, the peers' own TLS)
       -> Beat          <- Beat                       (keepalive)
                        <- Denied                     (named refusal; the connection stays unless it says so)

Between a newcomer and a present member, inside Signal:

    newcomer -> Petition      member -> Admitted (its records, in parts)  or  Declined

The node is trusted for nothing but liveness: what it passes on is signed by others and checked by the receiver.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from discod.wire.codec import PROTOCOL_VERSION, decoder, digest

MAX_SIGNAL_BYTES = 60 << 10  # one Signal, so that with what surrounds it it stays below MAX_SIGNALING_BYTES
MAX_OWN_RECORDS = 24  # in Join: invite, membership, its admits, addresses
HELLO_LABEL = b"discod/signaling-hello/1"
JOIN_LABEL = b"discod/signaling-join/1"

Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]
Nonce = Annotated[bytes, Meta(min_length=16, max_length=16)]
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
Text = Annotated[str, Meta(max_length=300)]
OwnRecords = Annotated[tuple[bytes, ...], Meta(max_length=MAX_OWN_RECORDS)]


class _Said(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=True):
    pass


class Knock(_Said, frozen=True, tag="knock"):
    protocol: int
    nonce: Nonce
    host: Text  # as dialled, "host:port"


class Hello(_Said, frozen=True, tag="hello"):
    """`signature` by `key` over `hello_statement`; `seen` is the address the daemon's connection comes from."""

    protocol: int
    key: Hash
    nonce: Nonce
    time: int
    seen: Text
    signature: Signature


class Find(_Said, frozen=True, tag="find"):
    invite: Hash


class Found(_Said, frozen=True, tag="found"):
    """MeshInfo, Invite, and the invite's Revocation if there is one; empty when nobody published that invite."""

    invite: Hash
    records: OwnRecords


class Join(_Said, frozen=True, tag="join"):
    """I, the holder of `key`, am here for `mesh`; sent again when what I say about myself changes."""

    mesh: Hash
    key: Hash
    time: int
    records: OwnRecords  # MeshInfo or Invite, my Membership, its Admits, my Addresses
    signature: Signature


class Present(_Said, frozen=True, tag="present"):
    """A peer is here, or says something new about itself."""

    peer: Hash
    records: OwnRecords


class Room(_Said, frozen=True, tag="room"):
    """Accepted; the peers that are here follow as Present."""

    mesh: Hash
    peers: int
    relay: bool


class Left(_Said, frozen=True, tag="left"):
    peer: Hash


class Publish(_Said, frozen=True, tag="publish"):
    """MeshInfo, invites and their revocations."""

    records: tuple[bytes, ...]


class Signal(_Said, frozen=True, tag="signal"):
    to: Hash
    body: Annotated[bytes, Meta(max_length=MAX_SIGNAL_BYTES)]


class Signaled(_Said, frozen=True, tag="signaled"):
    sender: Hash
    body: Annotated[bytes, Meta(max_length=MAX_SIGNAL_BYTES)]


class Relay(_Said, frozen=True, tag="relay"):
    """Please splice me with this peer."""

    to: Hash


class Ticket(_Said, frozen=True, tag="ticket"):
    """Redeem this on a new connection within ten seconds; `dial`: you speak first (TLS client)."""

    peer: Hash
    token: Nonce
    dial: bool


class Redeem(_Said, frozen=True, tag="redeem"):
    token: Nonce


class Spliced(_Said, frozen=True, tag="spliced"):
    """Both are here; raw bytes from now on."""


class Beat(_Said, frozen=True, tag="beat"):
    n: int


class Denied(_Said, frozen=True, tag="denied"):
    """`code` is stable and kebab-case, `why` is for people; `about` names the peer or invite it is about, if any."""

    code: Text
    why: Text
    about: bytes


ToNode = Knock | Find | Join | Publish | Signal | Relay | Redeem | Beat
FromNode = Hello | Found | Room | Present | Left | Signaled | Ticket | Spliced | Beat | Denied
to_node = decoder(ToNode)
from_node = decoder(FromNode)


class Petition(_Said, frozen=True, tag="petition"):
    """A newcomer asks a member to admit this Membership."""

    membership: bytes


class Admitted(_Said, frozen=True, tag="admitted"):
    """Records of the mesh, the newcomer's Admit among them; `last` ends the parts. (Tasks come over the link.)"""

    records: tuple[bytes, ...]
    last: bool


class Declined(_Said, frozen=True, tag="declined"):
    """Not admitted; if only the slot is taken, `free` names others."""

    why: Text
    free: Annotated[tuple[int, ...], Meta(max_length=8)]


Whisper = Petition | Admitted | Declined
whisper = decoder(Whisper)


def hello_statement(nonce: bytes, host: str) -> bytes:
    """What the node signs: the daemon's nonce and the host it dialled, so that no other node can pass this on."""
    return digest("discod/hello", PROTOCOL_VERSION.to_bytes(4, "little"), nonce, host.encode())


def join_statement(nonce: bytes, host: str, mesh: bytes, time: int) -> bytes:
    """What a joining peer signs: the node's nonce, the host it dialled, the mesh and the time."""
    return digest("discod/join", nonce, host.encode(), mesh, time.to_bytes(8, "little"))
