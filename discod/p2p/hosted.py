"""Versions that a task's node made while no quorum was linked, as certified states (protocol.md, the fallback).

A certificate with threshold 0 has no Adverts: its one signature is the node's, over the name of a version. The state is
Head(scope, version as round, the state that the node was handed as parent, the task's first bound, hash): whoever knows
the task can verify it alone, as it can a round's Dones. The node alone decides here what it signs (docs/security.md).
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from discod.errors import Refused
from discod.identity.ids import peer_id
from discod.identity.keys import verify
from discod.wire.codec import decode, decoder, encode
from discod.wire.federated import MAX_CONTRIBUTORS, VERSION_LABEL, Hash, version_state
from discod.wire.rounds import Certificate, Head, Signed, head_hash

NO_THRESHOLD = 0


class Host(NamedTuple):
    """The node that a task falls back to: its PeerId, the (32,) scope it signs for, and the bound of its states."""

    node: bytes
    scope: bytes
    bound: float


class Said(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a node's certificate carries: its key, the name of the version before, the vector's hash, whose updates."""

    key: Hash
    before: Hash
    hash: Hash
    contributors: Annotated[tuple[Hash, ...], Meta(max_length=MAX_CONTRIBUTORS)]


_said = decoder(Said)


def is_hosted(certificate: Certificate) -> bool:
    """Whether a node made it, not a roster."""
    return certificate.threshold == NO_THRESHOLD


def said_of(certificate: Certificate) -> Said:
    """What the node's certificate carries.  Raises: Refused or Broken (its form)."""
    if certificate.adverts or len(certificate.dones) != 1:
        raise Refused(None, "a node's certificate with other signatures than the node's")
    said: Said = decode(_said, certificate.dones[0].envelope)
    return said


def hosted_certificate(
    scope: bytes, host: Host, origin: bytes, version: int, said: Said, signature: bytes
) -> tuple[Head, Certificate]:
    """The state that a version is, and its certificate."""
    head = Head(scope, version, origin, host.bound, said.hash)
    return head, Certificate(version, origin, head_hash(head), (), NO_THRESHOLD, (Signed(encode(said), signature),))


def check_hosted(certificate: Certificate, scope: bytes, host: Host | None) -> None:
    """Verify a node's certificate with nothing but the task.

    Raises:
        Refused or Broken: it does not prove that the task's node made `state` from `parent`.
    """
    if host is None:
        raise Refused(None, "a node's certificate in a task without a fallback")
    said, version = said_of(certificate), certificate.round
    name = version_state(host.scope, certificate.parent, version, said.before, said.hash)
    if peer_id(said.key) != host.node or not verify(said.key, VERSION_LABEL, name, certificate.dones[0].signature):
        raise Refused(None, "a version that the task's node did not sign")
    if head_hash(Head(scope, version, certificate.parent, host.bound, said.hash)) != certificate.state:
        raise Refused(None, "a node's certificate for another state")


def version_name(certificate: Certificate, host: Host) -> bytes:
    """What the node calls the version of a verified certificate."""
    said = said_of(certificate)
    return version_state(host.scope, certificate.parent, certificate.round, said.before, said.hash)
