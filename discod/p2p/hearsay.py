"""How linked peers make their record sets of a mesh equal: on every new link, and whenever something is new.

    <-> Known     (the hashes of all I hold, when the link comes up)
    <-> Records   (those the other lacks; later: what is new here, to everybody but who told it)

Records prove themselves; only members of the mesh they speak of are listened to. What is not new is not passed on, so
it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from discod.errors import PeerError, Refused
from discod.identity import Members, short_id
from discod.p2p.rendezvous import in_parts
from discod.wire.links import MAX_RECORDS_BYTES, Known, LinkMessage, Records

Send = Callable[[bytes, LinkMessage], object]


class Hearsay:
    """The record sets of all meshes, by mesh id; `changed` is called with a set that has grown."""

    def __init__(self, send: Send, linked: Callable[[], Sequence[bytes]], changed: Callable[[Members], None]) -> None:
        self.meshes: dict[bytes, Members] = {}
        self._send, self._linked, self._changed = send, linked, changed

    def greet(self, peer: bytes) -> None:
        """A peer is linked: tell it what we hold of the meshes we share."""
        for members in self.meshes.values():
            if members.is_member(peer):
                self._send(peer, Known(members.mesh_id, tuple(sorted(members.hashes()))))

    def known(self, peer: bytes, message: Known) -> None:
        """Answer with what it lacks.  Raises: Refused."""
        members = self._shared(peer, message.mesh)
        self._tell(peer, members, members.records_not_in(frozenset(message.hashes)))

    def records(self, peer: bytes, message: Records) -> None:
        """Take what it says.  Raises: Refused or Broken, after taking what was good before."""
        self.learn(self._shared(peer, message.mesh), message.records, source=peer)

    def learn(self, members: Members, records: Sequence[bytes], *, source: bytes | None = None) -> bool:
        """Add records and pass on what is new; say whether something was.  Raises: PeerError."""
        new: list[bytes] = []
        trouble: PeerError | None = None
        for data in records:
            try:
                if members.add(data):
                    new.append(data)
            except PeerError as error:
                trouble = trouble or error
        if new:
            self._changed(members)
            for peer in self._linked():
                if peer != source and members.is_member(peer):
                    self._tell(peer, members, new)
        if trouble is not None:
            raise type(trouble)(source, trouble.why)
        return bool(new)

    def _tell(self, peer: bytes, members: Members, records: list[bytes]) -> None:
        for part in in_parts(records, MAX_RECORDS_BYTES):
            self._send(peer, Records(members.mesh_id, part))

    def _shared(self, peer: bytes, mesh: bytes) -> Members:
        members = self.meshes.get(mesh)
        if members is None or not members.is_member(peer):
            raise Refused(peer, f"no mesh that we share: {short_id(mesh)}")
        return members
