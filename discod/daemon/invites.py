"""Invites of the meshes whose root key is here: made, listed, taken back."""

from __future__ import annotations

import os
import time
from typing import Any

from discod.control.events import EventLog
from discod.daemon.meshes import Meshes
from discod.daemon.names import choose, matches
from discod.errors import UsageError
from discod.identity import Identity, Invite, Role, make_invite, make_link, make_revocation, peer_id, short_id
from discod.identity.records import MAX_USES
from discod.p2p.addresses import split_address

MAX_INVITE_SECONDS = 366 * 24 * 3600


class Invites:
    """The invites of all meshes."""

    def __init__(self, meshes: Meshes, events: EventLog) -> None:
        self._meshes, self._events = meshes, events

    def make(self, mesh_ref: str | None, *, uses: int, expires_seconds: float, role: Role) -> dict[str, Any]:
        """A new invite with its link, which is a secret and shown only here.

        Raises: UsageError, NotAllowed (no root key).
        """
        if not 1 <= uses <= MAX_USES:
            raise UsageError(f"an invite has 1 to {MAX_USES} uses, not {uses}", code="bad-request")
        if not 0 < expires_seconds <= MAX_INVITE_SECONDS:
            raise UsageError("an invite lives for at most a year", "for example --expires 24h", code="bad-request")
        mesh = self._meshes.find(mesh_ref)
        root, seed = self._meshes.root(mesh), os.urandom(32)
        key = Identity.from_seed(seed)
        expires = int(time.time() + expires_seconds)
        self._publish(mesh, make_invite(root, key.public, role=role, uses=uses, expires=expires))
        at = self._meshes.signaling(mesh)
        host, port = split_address(at.address)
        link = make_link(host, port, mesh, at.key, seed, tls=at.tls)
        self._events.add("invite.created", mesh=self._meshes.mesh_name(mesh), invite=_shown_id(key.public))
        return self._show(mesh, key.public) | {"link": link}

    def all(self, mesh_ref: str | None) -> list[dict[str, Any]]:
        """All invites but the creator's own, by expiry."""
        return [self._show(mesh, invite.key) for mesh, invite in self._known(mesh_ref)]

    def revoke(self, ref: str) -> dict[str, Any]:
        """Take an invite back: nobody is admitted by it any more. Raises: UsageError, NotAllowed."""
        found = [(mesh, one) for mesh, one in self._known(None) if matches(ref, peer_id(one.key))]
        mesh, invite = choose("invite", ref, found)
        if not self._meshes.members(mesh).invite_is_revoked(invite.key):
            root = self._meshes.root(mesh)
            self._publish(mesh, make_revocation(root, "invite", invite.key, int(time.time())))
            self._events.add("invite.revoked", mesh=self._meshes.mesh_name(mesh), invite=_shown_id(invite.key))
        return self._show(mesh, invite.key)

    def _known(self, mesh_ref: str | None) -> list[tuple[bytes, Invite]]:
        return [
            (mesh, invite)
            for mesh in self._meshes.some(mesh_ref)
            for invite in self._meshes.members(mesh).invites()
            if not (invite.role == "admin" and invite.uses == 1 and self._is_founding(mesh, invite))
        ]

    def _is_founding(self, mesh: bytes, invite: Invite) -> bool:
        """The invite that the creator gave itself: it was used when it was made."""
        created = self._meshes.members(mesh)
        return invite.expires <= min((one.expires for one in created.invites()), default=0)

    def _publish(self, mesh: bytes, record: bytes) -> None:
        self._meshes.net.publish(mesh, record)
        self._meshes.changed(mesh)

    def _show(self, mesh: bytes, key: bytes) -> dict[str, Any]:
        members = self._meshes.members(mesh)
        invite = members.invite(key)
        assert invite is not None, "it was just found or made"
        free = len(members.free_slots(key))
        return {
            "id": _shown_id(key),
            "mesh": self._meshes.mesh_name(mesh),
            "role": invite.role,
            "uses": invite.uses,
            "used": invite.uses - free,
            "expires": invite.expires,
            "state": _state(members.invite_is_revoked(key), free, invite.expires),
        }


def _state(revoked: bool, free: int, expires: int) -> str:
    if revoked:
        return "revoked"
    if free == 0:
        return "used-up"
    return "expired" if time.time() > expires else "open"


def _shown_id(key: bytes) -> str:
    return short_id(peer_id(key))
