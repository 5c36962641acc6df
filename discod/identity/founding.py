"""The statements people make: found a mesh, invite, join, admit, revoke, publish. Time and entropy are arguments."""

from __future__ import annotations

from typing import Literal

from discod.identity.ids import peer_id
from discod.identity.keys import Identity
from discod.identity.records import (
    ADDRESS_TTL,
    Addresses,
    Admit,
    Invite,
    Membership,
    MeshInfo,
    Record,
    Revocation,
    Role,
    TaskOffer,
    parse_record,
    sign_record,
)

INVITE_SECONDS = 24 * 3600  # default life of an invite


def found_mesh(root: Identity, creator: Identity, mesh_name: str, peer_name: str, now: int, seed: bytes) -> list[bytes]:
    """Return the first records of a mesh, in order: its info, the creator's invite, membership (admin) and admit.

    seed: 32 fresh random bytes for the creator's invite; forget them afterwards.
    """
    key = Identity.from_seed(seed)
    info = sign_record(MeshInfo(root.public, mesh_name, creator.public), root)
    invite = make_invite(root, key.public, role="admin", uses=1, expires=now, approve=False)
    membership = make_membership(key, creator, root.peer_id, peer_name, slot=0, now=now)
    return [info, invite, membership, make_admit(root, parse_record(membership), now)]


def make_invite(
    root: Identity, key: bytes, *, role: Role = "trainer", uses: int = 1, expires: int, approve: bool = False
) -> bytes:
    """Return an Invite for the invite public key `key`, (32,) bytes."""
    return sign_record(Invite(root.public, role, uses, expires, approve, key), root)


def make_membership(invite: Identity, peer: Identity, mesh: bytes, name: str, *, slot: int, now: int) -> bytes:
    """Return the Membership of `peer`, signed by the invite's key and its own."""
    return sign_record(Membership(mesh, invite.public, slot, peer.public, name, now), invite, peer)


def make_admit(by: Identity, membership: Record, now: int) -> bytes:
    """Return the Admit of a membership that `Members.admissible` found nothing against."""
    return sign_record(Admit(membership.mesh, membership.hash, by.public, now), by)


def make_revocation(root: Identity, kind: Literal["peer", "invite"], target: bytes, now: int) -> bytes:
    """Return the root's Revocation of a peer's or an invite's public key."""
    return sign_record(Revocation(root.public, kind, target, now), root)


def make_addresses(peer: Identity, mesh: bytes, entries: tuple[str, ...], *, seq: int, now: int) -> bytes:
    """Return the peer's signed address record; `seq` must be higher than in any it made before."""
    return sign_record(Addresses(mesh, peer.public, seq, entries, now, ADDRESS_TTL), peer)


def make_offer(publisher: Identity, mesh: bytes, task: bytes, now: int) -> bytes:
    """Return the TaskOffer of a task's canonical bytes."""
    return sign_record(TaskOffer(mesh, task, publisher.public, now), publisher)


def mesh_id(root_public: bytes) -> bytes:
    """Return the (32,) id of the mesh of a root key."""
    return peer_id(root_public)
