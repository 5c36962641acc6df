"""The peers of the meshes as the control API shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from discod.daemon.meshes import Meshes
from discod.daemon.names import choose, matches
from discod.identity import short_id, show_id
from discod.p2p.mesh import LinkInfo

PeerTasks = Callable[[bytes, bytes], list[dict[str, Any]]]  # (mesh, PeerId) -> what it takes part in


class Peers:
    """Every member of every mesh, this peer included."""

    def __init__(self, meshes: Meshes, me: bytes, tasks: PeerTasks) -> None:
        self._meshes, self._me, self._tasks = meshes, me, tasks
        self.last_seen: dict[bytes, float] = {}  # PeerId -> when its link was last up, Unix seconds

    def all(self, mesh_ref: str | None) -> list[dict[str, Any]]:
        """The peers of one mesh or all, this one first, then by name."""
        shown = [
            self._show(mesh, peer)
            for mesh in self._meshes.some(mesh_ref)
            for peer in self._meshes.members(mesh).members()
        ]
        return sorted(shown, key=lambda peer: (peer["mesh"], not peer["self"], peer["name"], peer["id"]))

    def find(self, ref: str) -> dict[str, Any]:
        """One peer by name or id. Raises: UsageError."""
        found = [
            (mesh, peer)
            for mesh in self._meshes.ids()
            for peer in sorted(self._meshes.members(mesh).members())
            if matches(ref, peer, self._meshes.members(mesh).name(peer))
        ]
        if len({peer for _, peer in found}) == 1:  # one peer in several meshes
            found = found[:1]
        return self._show(*choose("peer", ref, found))

    def _show(self, mesh: bytes, peer: bytes) -> dict[str, Any]:
        members, net = self._meshes.members(mesh), self._meshes.net
        info = net.linked().get(peer)
        state = "self" if peer == self._me else "linked" if info is not None else "offline"
        who = {
            "name": members.name(peer),
            "id": show_id(peer),
            "short": short_id(peer),
            "mesh": self._meshes.mesh_name(mesh),
            "role": members.role(peer),
            "self": peer == self._me,
            "linked": info is not None,
            "state": state,
            "last_error": net.errors().get(peer),
            "last_seen": self.last_seen.get(peer),
            "tasks": self._tasks(mesh, peer),
        }
        return who | _link(info)


def _link(info: LinkInfo | None) -> dict[str, Any]:
    up, down = (info.bytes_up, info.bytes_down) if info else ({}, {})
    return {
        "path": info.path if info else None,
        "rtt_seconds": info.rtt_seconds if info else None,
        "bytes_up": sum(up.values()),
        "bytes_down": sum(down.values()),
        "bytes_up_by_kind": dict(up),
        "version": info.software if info else None,
    }
