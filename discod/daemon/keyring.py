"""The round machine's keys: this peer's identity, and the members of a mesh as its records stand now."""

from __future__ import annotations

from discod.errors import Refused
from discod.identity import Identity, Members, open_signed, seal, short_id
from discod.wire.rounds import Envelope, Signed, parse_envelope

KEPT_CHECKS = 4096  # a message is checked again for every other one that carries it as evidence


class MeshKeyring:
    """Signs as `identity`; believes whoever holds, or once held, a membership of the mesh."""

    def __init__(self, identity: Identity, members: Members) -> None:
        self._identity, self._members = identity, members
        self._checked: dict[Signed, Envelope] = {}

    @property
    def me(self) -> bytes:
        return self._identity.peer_id

    def sign(self, envelope: Envelope) -> Signed:
        signed = seal(self._identity, envelope)
        self._remember(signed, envelope)
        return signed

    def check(self, signed: Signed) -> Envelope:
        """The envelope, its signature verified. Raises: Broken (form or signature), Refused (never a member)."""
        if (known := self._checked.get(signed)) is not None:
            return known
        sender = parse_envelope(signed).sender
        public = self._members.public_key(sender)
        if public is None:
            raise Refused(sender, f"{short_id(sender)} is no member of this mesh")
        envelope = open_signed(signed, public)
        self._remember(signed, envelope)
        return envelope

    def trainers(self) -> frozenset[bytes]:
        return self._members.trainers()

    def members_digest(self) -> bytes:
        return self._members.digest()

    def _remember(self, signed: Signed, envelope: Envelope) -> None:
        """A signature that was good stays good: only the key's owner could have made it."""
        self._checked[signed] = envelope
        while len(self._checked) > KEPT_CHECKS:
            del self._checked[next(iter(self._checked))]
