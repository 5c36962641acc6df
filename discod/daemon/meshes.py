"""The meshes of this daemon: made, joined, kept on disk, and shown.

The live member sets belong to the p2p mesh, which gossips; what changed is written to the store at once. Root keys lie
in files of their own; a mesh whose root key is here is one we can invite to.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, cast

from discod.control.events import EventLog
from discod.daemon.names import choose, matches
from discod.errors import NotAllowed, PeerError, UsageError, UserError
from discod.identity import Identity, Members, found_mesh, is_name, parse_link, short_id, show_id
from discod.identity.keyfile import write_new_secret
from discod.p2p.mesh import Asked, Mesh, SignalingAt, ask_signaling
from discod.store import MeshRow, Store

JOIN_HINT = "discod join, or discod mesh create NAME --signaling HOST"


class Meshes:
    """All meshes of this daemon, by id."""

    def __init__(self, net: Mesh, store: Store, identity: Identity, name: str, events: EventLog) -> None:
        self.net, self._store, self._identity, self.name, self._events = net, store, identity, name, events
        self._rows: dict[bytes, MeshRow] = {}

    def load(self) -> None:
        """Be in every mesh that the store knows. Raises: BadData when the store is damaged."""
        for row in self._store.meshes():
            members = Members(row.root)
            for record in self._store.records(row.id):
                _add(members, record)
            self._rows[row.id] = row
            self.net.add_mesh(members, [SignalingAt(url, row.signaling_key) for url in row.signaling])

    async def create(self, name: str, where: str, ask: Callable[[str], Any] = ask_signaling) -> bytes:
        """Found a mesh at the signaling node `where`, whose key is taken on first use; its id.

        Raises: UsageError (a name that is taken or impossible), SignalingUnreachable.
        """
        if not is_name(name):
            raise UsageError(f"{name[:80]!r} cannot be a name", "1 to 64 printable characters, no spaces at the ends")
        if any(row.name == name for row in self._rows.values()):
            raise UsageError(f"there is a mesh '{name}' already", "choose another name", code="name-taken")
        asked: Asked = await ask(where)
        root = Identity.from_seed(os.urandom(32))
        write_new_secret(self._store.root_key_path(root.peer_id), root.key_pem)
        members = Members(root.public)
        for record in found_mesh(root, self._identity, name, self.name, int(time.time()), os.urandom(32)):
            members.add(record)
        self._keep(members, asked.at)
        self.net.add_mesh(members, [asked.at])
        self._events.add("mesh.created", mesh=name, short=short_id(members.mesh_id))
        return members.mesh_id

    async def join(self, link: str, report: Callable[[str], None], wait_seconds: float) -> bytes:
        """Join the mesh of an invite link; its id.

        Raises: BadInvite, SignalingUnreachable, TimedOut.
        """
        invite = parse_link(link)
        members = await self.net.join(invite, self.name, report=report, wait_seconds=wait_seconds)
        self._keep(members, SignalingAt.of_link(invite))
        self._events.add("mesh.joined", mesh=members.name_of_mesh, short=short_id(members.mesh_id))
        return members.mesh_id

    def _keep(self, members: Members, at: SignalingAt) -> None:
        row = MeshRow(members.mesh_id, members.root, members.name_of_mesh, (at.url,), at.key, time.time())
        self._store.save_mesh(row)
        self._store.save_records(row.id, members.records())
        self._rows[row.id] = row

    def changed(self, mesh: bytes) -> None:
        """Records of a mesh changed: keep them. One that is being joined is kept when it is joined."""
        if mesh in self._rows:
            self._store.save_records(mesh, self.net.meshes[mesh].records())

    def ids(self) -> list[bytes]:
        """All mesh ids, oldest first."""
        return list(self._rows)

    def members(self, mesh: bytes) -> Members:
        """The live member set."""
        return self.net.meshes[mesh]

    def mesh_name(self, mesh: bytes) -> str:
        """What people call it."""
        return self._rows[mesh].name

    def find(self, ref: str | None) -> bytes:
        """The mesh of a name or id; none given: the only one. Raises: UsageError, UserError (no-mesh)."""
        if ref is not None:
            return choose("mesh", ref, [m for m in self._rows if matches(ref, m, self.mesh_name(m))])
        if len(self._rows) > 1:
            names = ", ".join(row.name for row in self._rows.values())
            raise UsageError(f"which mesh: {names}?", "name it: --mesh NAME", code="ambiguous")
        if not self._rows:
            raise UserError("this peer is in no mesh yet", JOIN_HINT, code="no-mesh")
        return next(iter(self._rows))

    def some(self, ref: str | None) -> list[bytes]:
        """The one mesh that is named, or all. Raises: UsageError."""
        return self.ids() if ref is None else [self.find(ref)]

    def root(self, mesh: bytes) -> Identity:
        """The root key. Raises: NotAllowed when it is not here, PermissionProblem."""
        path = self._store.root_key_path(mesh)
        if not path.exists():
            why = f"the root key of mesh '{self.mesh_name(mesh)}' is not on this machine"
            raise NotAllowed(why, "ask whoever made the mesh")
        return Identity.load(path)

    def signaling(self, mesh: bytes) -> SignalingAt:
        """Where its members meet."""
        row = self._rows[mesh]
        return SignalingAt(row.signaling[0], row.signaling_key)

    def show(self, mesh: bytes) -> dict[str, Any]:
        """The Mesh of the control API."""
        row, members, me = self._rows[mesh], self.net.meshes[mesh], self._identity.peer_id
        paths = [info.path for peer, info in self.net.linked().items() if members.is_member(peer)]
        info = self.net.signaling().get(mesh)
        return {
            "name": row.name,
            "id": show_id(mesh),
            "short": short_id(mesh),
            "root": self._store.root_key_path(mesh).exists(),
            "role": members.role(me),
            "peers": len(members.members()),
            "linked": len(paths),
            "direct": paths.count("direct"),
            "relayed": paths.count("relay"),
            "signaling": {
                "url": info.at.url if info else row.signaling[0],
                "connected": info is not None and info.connected,
                "rtt_seconds": info.rtt_seconds if info else None,
                "error": info.error if info else None,
                "key": short_id(row.signaling_key),
            },
            "created": row.joined,
        }


def _add(members: Members, record: bytes) -> None:
    try:
        members.add(record)
    except PeerError:
        return  # it was verified before it was saved; a record that newer rules refuse is forgotten


def names_of(members: Members, peers: Any) -> list[str]:
    """The names of peers, sorted."""
    return sorted(members.name(peer) for peer in cast("list[bytes]", list(peers)))
