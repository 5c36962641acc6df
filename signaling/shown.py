"""What the records prove that a peer shows to the node. Pure."""

from __future__ import annotations

from discod.errors import Refused
from discod.identity import Invite, Membership, MeshInfo, Record, Revocation, parse_record, peer_id
from discod.wire.signaling import Join
from signaling import limits


def concerns(record: Record, invite: bytes) -> bool:
    """Whether a newcomer with this invite needs the record."""
    match record.body:
        case MeshInfo():
            return True
        case Invite(key=key):
            return key == invite
        case Revocation(target=target):
            return target == invite
    return False


def check_membership(join: Join) -> None:
    """Raises: Refused unless the records hold a membership of this key under an invite of this mesh."""
    if sum(map(len, join.records)) > limits.MAX_JOIN_BYTES:
        raise Refused(None, f"a Join with more than {limits.MAX_JOIN_BYTES} bytes of records")
    bodies = [parse_record(data).body for data in join.records]
    invites = {body.key: body for body in bodies if isinstance(body, Invite) and peer_id(body.root) == join.mesh}
    for body in bodies:
        if isinstance(body, Membership) and body.peer == join.key and body.mesh == join.mesh:
            invite = invites.get(body.invite)
            if invite is not None and body.slot < invite.uses:
                return
    raise Refused(peer_id(join.key), "no membership of this mesh was shown")
