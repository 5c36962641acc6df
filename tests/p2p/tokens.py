"""What a simulated peer is made of: an id, a key anybody could forge, tokens for parameters, and a disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256

from discod.errors import Broken, Refused
from discod.p2p.rules import Spent
from discod.wire.codec import digest, encode
from discod.wire.rounds import Certificate, Envelope, Head, Signed, parse_envelope, sign_label

Tokens = frozenset[tuple[bytes, int]]
SCOPE = digest("test/scope")


def peer_id(number: int) -> bytes:
    return digest("test/peer", bytes([number]))


@dataclass
class FakeKeyring:
    """Signatures that anybody in the test could forge, and nobody does."""

    me: bytes
    everybody: frozenset[bytes]

    def sign(self, envelope: Envelope) -> Signed:
        raw = encode(envelope)
        return Signed(raw, self._signature(self.me, envelope.kind, raw))

    def check(self, signed: Signed) -> Envelope:
        envelope = parse_envelope(signed)
        if envelope.sender not in self.everybody:
            raise Refused(envelope.sender, "a stranger")
        if signed.signature != self._signature(envelope.sender, envelope.kind, signed.envelope):
            raise Broken(envelope.sender, "bad signature")
        return envelope

    def trainers(self) -> frozenset[bytes]:
        return self.everybody

    def members_digest(self) -> bytes:
        return digest("test/members", *sorted(self.everybody))

    @staticmethod
    def _signature(peer: bytes, kind: str, raw: bytes) -> bytes:
        return sha256(peer + sign_label(kind) + raw).digest() * 2


def genesis(bound: float = 1.0) -> Head:
    return Head(SCOPE, 0, bytes(32), bound, digest("test/parameters"))


def parameters_hash(tokens: Tokens) -> bytes:
    return digest("test/parameters", *(peer + n.to_bytes(4, "little") for peer, n in sorted(tokens)))


@dataclass
class Disk:
    """What a crash leaves behind."""

    head: Head
    tokens: Tokens = frozenset()
    headers: dict[bytes, Certificate] = field(default_factory=dict)
    roster: tuple[bytes, ...] = ()
    spent: Spent = field(default_factory=Spent)
    seq: int = 0
    trained: int = 0
    candidates: dict[bytes, tuple[Head, Tokens]] = field(default_factory=dict)  # by rid
