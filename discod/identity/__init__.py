"""Who is who: keys and ids, signed records and invites, the member set of a mesh, sealed envelopes (protocol.md 1).

Everything is pure but keyfile.py, which reads and writes secret files.
"""

from discod.identity.envelope import open_signed, seal
from discod.identity.founding import (
    INVITE_SECONDS,
    found_mesh,
    make_addresses,
    make_admit,
    make_invite,
    make_membership,
    make_offer,
    make_revocation,
    mesh_id,
)
from discod.identity.ids import parse_id, peer_id, short_id, show_id
from discod.identity.keys import Identity, certificate_key, verify
from discod.identity.links import InviteLink, make_link, parse_link
from discod.identity.members import Members
from discod.identity.records import (
    Addresses,
    Admit,
    Invite,
    Membership,
    MeshInfo,
    Record,
    Revocation,
    Role,
    TaskOffer,
    is_name,
    parse_record,
)

__all__ = [
    "INVITE_SECONDS",
    "Addresses",
    "Admit",
    "Identity",
    "Invite",
    "InviteLink",
    "Members",
    "Membership",
    "MeshInfo",
    "Record",
    "Revocation",
    "Role",
    "TaskOffer",
    "certificate_key",
    "found_mesh",
    "is_name",
    "make_addresses",
    "make_admit",
    "make_invite",
    "make_link",
    "make_membership",
    "make_offer",
    "make_revocation",
    "mesh_id",
    "open_signed",
    "parse_id",
    "parse_link",
    "parse_record",
    "peer_id",
    "seal",
    "short_id",
    "show_id",
    "verify",
]
