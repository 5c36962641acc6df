"""Who may enter a federated buffer, and of which task: read from signed records, nothing else is believed. Pure."""

from __future__ import annotations

from discod.errors import BadData, Refused
from discod.identity import Invite, Members, MeshInfo, TaskOffer, parse_id, parse_record, peer_id
from discod.wire.codec import decode
from discod.wire.federated import Enter, HostedTask, hosted_task
from discod.wire.rounds import Head, head_decoder, head_hash
from signaling import limits


class Denial(Refused):
    """A peer may not enter; `code` is told."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(None, why)
        self.code = code


def admitted(enter: Enter, members: Members, node: bytes) -> tuple[HostedTask, bytes, Head | None]:
    """The task that a member enters, in its canonical encoding too, and the state a fallback begins with.

    Raises: Denial, PeerError.
    """
    peer, offer = peer_id(enter.key), parse_record(enter.offer)
    if peer not in members.trainers():
        raise Denial("not-a-member", members.why_not(peer) or "observers do not train")
    body = offer.body
    if not isinstance(body, TaskOffer) or offer.mesh != enter.mesh or not members.may_publish(body.publisher):
        raise Denial("not-a-member", "who published this task may not")
    task = hosted_task(body.task)
    if not (task.scheme == "federated" or task.is_fallback) or _node_of(task) != node:
        raise Denial("another-node", "this task names another node")
    if 4 * enter.floats > limits.MAX_VECTOR_BYTES:
        raise Denial("too-large", f"this node takes vectors of {limits.MAX_VECTOR_BYTES} bytes at most")
    return task, body.task, _head_of(enter) if task.is_fallback else None


def _head_of(enter: Enter) -> Head | None:
    """Raises: PeerError, when what is named is not what is shown."""
    if not enter.head:
        return None
    head: Head = decode(head_decoder, enter.head)
    if head_hash(head) != enter.origin:
        raise Refused(None, "a head that is not the named state's")
    return head


def _node_of(task: HostedTask) -> bytes:
    try:
        return parse_id(task.rule.node)
    except BadData:
        return b""


def root_of(data: bytes, mesh: bytes) -> bytes:
    """The root key of a mesh, if this record shows it; else empty.  Raises: PeerError."""
    body = parse_record(data).body
    return body.root if isinstance(body, Invite | MeshInfo) and peer_id(body.root) == mesh else b""
