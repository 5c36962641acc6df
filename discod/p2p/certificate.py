"""The names and proofs of rounds: scope, era, round id, thresholds, certificates (docs/protocol.md 5, 6.1).

scope = H(mesh, task)                 messages of one task in one mesh
era   = H(scope, round, base)         Adverts of peers that train on one base
rid   = H(era, sorted Adverts, t)     the attempt: one roster is one rid, there is no attempt counter
uh    = H(rid, u1h, U, mh)            the sum that a Consent opens
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from typing import Protocol, cast

from discod.errors import Broken, Refused
from discod.wire.codec import digest
from discod.wire.rounds import (
    MAX_ROSTER,
    Advert,
    Certificate,
    Done,
    Envelope,
    Signed,
    message_hash,
    parse_body,
)

NONCE_BYTES = 16


class Keyring(Protocol):
    """Who I am and who the others are; the only thing a machine knows about keys."""

    @property
    def me(self) -> bytes:
        """My PeerId."""

    def sign(self, envelope: Envelope) -> Signed:
        """Sign with my key."""

    def check(self, signed: Signed) -> Envelope:
        """The envelope, its signature verified. Raises Broken (bad signature) or Refused (no member ever)."""

    def trainers(self) -> frozenset[bytes]:
        """The members that may be in a roster now."""

    def members_digest(self) -> bytes:
        """Hash of the member set; peers whose hashes differ exchange records first."""


def scope_of(mesh: bytes, task: bytes) -> bytes:
    return digest("discod/scope/1", mesh, task)


def era_of(scope: bytes, round_number: int, base: bytes) -> bytes:
    return digest("discod/era/1", scope, round_number.to_bytes(8, "little"), base)


def rid_of(era: bytes, adverts: Sequence[Signed], threshold: int) -> bytes:
    return digest("discod/rid/1", era, *map(message_hash, adverts), threshold.to_bytes(4, "little"))


def threshold_of(peers: int, trainers: int = 0) -> int:
    """t = floor(2n/3) + 1; under `quorum = "majority"` pass the number of all trainers: more than half of them."""
    return max(2 * peers // 3 + 1, trainers // 2 + 1 if trainers else 0)


def colluders_of(peers: int, threshold: int) -> int:
    """n_C: how many of a roster may collude (or sign twice) without learning or forging anything."""
    return max(0, min(2 * threshold - peers - 1, threshold - 2))


def bitmap(members: Collection[bytes], roster: Sequence[bytes]) -> bytes:
    """One bit per roster position, little-endian."""
    value = sum(1 << i for i, peer in enumerate(roster) if peer in members)
    return value.to_bytes(-(-len(roster) // 8), "little")


def from_bitmap(bits: bytes, roster: Sequence[bytes]) -> frozenset[bytes]:
    """Raises Broken for a bitmap of the wrong length or with bits beyond the roster."""
    value = int.from_bytes(bits, "little")
    if len(bits) != -(-len(roster) // 8) or value >> len(roster):
        raise Broken(None, "bitmap does not fit the roster")
    return frozenset(peer for i, peer in enumerate(roster) if value >> i & 1)


def start_hash(rid: bytes, started: Collection[bytes], roster: Sequence[bytes]) -> bytes:
    """u1h: the set that started (for `mean` the whole roster)."""
    return digest("discod/u1/1", rid, bitmap(started, roster))


def manifests_hash(hashes: Iterable[bytes]) -> bytes:
    """mh: the manifests of U, in roster order."""
    return digest("discod/manifests/1", *hashes)


def consent_hash(rid: bytes, start: bytes, included: bytes, manifests: bytes) -> bytes:
    """uh: names one sum over one U and one set of manifests."""
    return digest("discod/consent/1", rid, start, included, manifests)


def open_adverts(
    adverts: Sequence[Signed], scope: bytes, round_number: int, base: bytes, keyring: Keyring
) -> tuple[bytes, ...]:
    """The roster that these Adverts form, sorted by PeerId.

    Raises:
        Broken: a bad signature.  Refused: not sorted, a peer twice, or an Advert of another task, base or era.
    """
    if not 1 <= len(adverts) <= MAX_ROSTER:
        raise Refused(None, f"a roster of {len(adverts)} peers")
    era = era_of(scope, round_number, base)
    envelopes = [keyring.check(signed) for signed in adverts]
    for envelope in envelopes:
        if (envelope.kind, envelope.scope, envelope.rid) != (Advert.kind, scope, era):
            raise Refused(None, "roster with an advert of another era")
        advert = cast(Advert, parse_body(envelope))
        if (advert.round, advert.base) != (round_number, base) or len(advert.nonce) != NONCE_BYTES:
            raise Refused(None, "roster with an advert for another base")
    roster = tuple(envelope.sender for envelope in envelopes)
    if any(a >= b for a, b in pairwise(roster)):
        raise Refused(None, "roster not sorted, or a peer in it twice")
    return roster


def check_certificate(certificate: Certificate, scope: bytes, keyring: Keyring, majority: bool) -> tuple[bytes, ...]:
    """Verify a certificate with nothing but the member records; returns its roster.

    Raises:
        Refused or Broken: it does not prove that `state` follows `parent`.
    """
    if certificate.round < 1:
        raise Refused(None, "a certificate for round 0")
    roster = open_adverts(certificate.adverts, scope, certificate.round - 1, certificate.parent, keyring)
    least = threshold_of(len(roster))
    if certificate.threshold < least or (not majority and certificate.threshold != least):
        raise Refused(None, f"a certificate with threshold {certificate.threshold} of {len(roster)}")
    era = era_of(scope, certificate.round - 1, certificate.parent)
    rid = rid_of(era, certificate.adverts, certificate.threshold)
    signers = {_signer(signed, scope, rid, certificate.state, keyring) for signed in certificate.dones}
    if len(signers & set(roster)) < certificate.threshold or len(certificate.dones) > len(roster):
        raise Refused(None, f"a certificate with {len(signers & set(roster))} signers of {certificate.threshold}")
    return roster


def _signer(signed: Signed, scope: bytes, rid: bytes, state: bytes, keyring: Keyring) -> bytes:
    envelope = keyring.check(signed)
    if (envelope.kind, envelope.scope, envelope.rid) != (Done.kind, scope, rid):
        raise Refused(None, "a certificate with a Done of another round")
    if cast(Done, parse_body(envelope)).state != state:
        raise Refused(None, "a certificate with a Done for another state")
    return envelope.sender
