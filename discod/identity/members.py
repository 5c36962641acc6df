"""Who is in a mesh: a function of a set of signed records that only grows (protocol.md 1).

Records may come in any order and from anybody; the same set gives the same members and the same digest everywhere.
Rules:
  - The root's word counts at once. A membership counts under its invite for slots below `uses`; two peers in one
    slot void that slot.
  - An admit counts if its signer is the root or was itself admitted and is not revoked, its time is not past the
    invite's expiry nor past the invite's revocation, and, for an invite with `approve`, its signer is the root or
    an admin.
  - A revoked peer's own admits count no more (it could date them back); `orphans` says whom the root must admit
    anew before it revokes.
  - Admins are trainers too. A voided peer's admits stay: whoever finds an old seed must not unseat more than its
    slot.
Of records that say the same thing one stays (the earliest, then the lower hash; of addresses the highest seq), and
two peers per slot, so the set is bounded by what the root allowed. Records whose reason is not here yet wait, at
most MAX_WAITING of them, outside of set and digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Set as AbstractSet

from discod.errors import Refused
from discod.identity.ids import peer_id, short_id
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
    parse_record,
)
from discod.identity.standing import Standing, settle

MAX_WAITING = 1_024
_KIND_ORDER = (MeshInfo, Invite, Revocation, Membership, Admit, TaskOffer, Addresses)


class Members:
    """The records of one mesh; `root` is its root public key, `mesh_id` the (32,) byte id."""

    def __init__(self, root: bytes) -> None:
        self.root = root
        self.mesh_id = peer_id(root)
        self._records: dict[tuple[object, ...], Record] = {}
        self._known: Standing | None = None

    def add(self, data: bytes) -> bool:
        """Take a record; say whether it changed what is held.

        Raises: Broken or Refused as parse_record; Refused for another mesh or too many records without a reason.
        """
        record = parse_record(data)
        if record.mesh != self.mesh_id:
            raise Refused(None, f"a record of another mesh ({short_id(record.mesh)})")
        slot, held = _slot_of(record), self._records
        if slot in held and _rank(held[slot]) <= _rank(record):
            return False
        if isinstance(record.body, Membership) and not self._make_room(record.body):
            return False
        known = self._standing
        if len(held) - len(known.grounded) >= MAX_WAITING and not _is_from_root(record):
            raise Refused(None, "too many records whose invite or admitting member is unknown here")
        held[slot] = record
        self._known = None
        return True

    def records(self) -> list[bytes]:
        """Return every record that counts, in an order that makes sense to a newcomer."""
        return [record.data for record in self._sorted()]

    def records_not_in(self, hashes: AbstractSet[bytes]) -> list[bytes]:
        """Return the records whose hash is not in `hashes`, what another peer lacks, in the same order."""
        return [record.data for record in self._sorted() if record.hash not in hashes]

    def hashes(self) -> frozenset[bytes]:
        """Return the hash of every record that counts, addresses and tasks included."""
        return frozenset(self._standing.grounded)

    def digest(self) -> bytes:
        """Return the (32,) member-set hash: over the sorted record hashes, without addresses and tasks."""
        grounded = self._standing.grounded.values()
        hashes = sorted(r.hash for r in grounded if not isinstance(r.body, Addresses | TaskOffer))
        return hashlib.sha256(b"discod/members/1" + b"".join(hashes)).digest()

    @property
    def name_of_mesh(self) -> str:
        """The name the root gave, or the short id while the MeshInfo is not here."""
        infos = [r.body.name for r in self._sorted() if isinstance(r.body, MeshInfo)]
        return infos[0] if infos else short_id(self.mesh_id)

    def members(self) -> frozenset[bytes]:
        """Return the PeerIds of all current members."""
        return frozenset(self._standing.members)

    def trainers(self) -> frozenset[bytes]:
        """Return the PeerIds that may stand in a roster: trainers and admins."""
        return frozenset(peer for peer, member in self._standing.members.items() if member.role != "observer")

    def is_member(self, peer: bytes) -> bool:
        """Say whether the peer is a current member."""
        return peer in self._standing.members

    def public_key(self, peer: bytes) -> bytes | None:
        """Return the (32,) public key of anyone with a membership here, current or not."""
        return self._standing.keys.get(peer)

    def name(self, peer: bytes) -> str:
        """Return the peer's name, or its short id when it never had a membership here."""
        return self._standing.names.get(peer) or short_id(peer)

    def role(self, peer: bytes) -> Role | None:
        """Return the peer's role, None when it is no current member."""
        member = self._standing.members.get(peer)
        return member.role if member else None

    def is_revoked(self, peer: bytes) -> bool:
        """Say whether the root revoked this peer; it never becomes untrue."""
        return peer in self._standing.revoked

    def why_not(self, peer: bytes) -> str | None:
        """Return why the peer is no member, in words for it; None when it is one."""
        known = self._standing
        if peer in known.members:
            return None
        if peer in known.revoked:
            return "it was revoked by the root of the mesh"
        if peer not in known.keys:
            return "it has no membership of this mesh"
        if peer in known.voided:
            return "the slot of its invite was used by two peers, which voids it: ask for a new invite"
        return "no member has admitted it yet"

    def addresses(self, peer: bytes, now: float | None = None) -> tuple[str, ...]:
        """Return where the peer says it listens; with `now` (Unix seconds), nothing once that has lapsed."""
        record = self._records.get(("addresses", self._standing.keys.get(peer)))
        if record is None or not isinstance(record.body, Addresses):
            return ()
        fresh = now is None or now <= record.body.time + record.body.ttl
        return record.body.entries if fresh else ()

    def tasks(self) -> list[TaskOffer]:
        """Return the tasks that the root or a current admin published, oldest first."""
        offers = [r.body for r in self._sorted() if isinstance(r.body, TaskOffer)]
        current = [o for o in offers if o.publisher == self.root or self.role(peer_id(o.publisher)) == "admin"]
        return sorted(current, key=lambda offer: (offer.time, offer.task))

    def may_publish(self, public: bytes) -> bool:
        """Say whether tasks signed by this key count."""
        return public == self.root or self.role(peer_id(public)) == "admin"

    def invite(self, key: bytes) -> Invite | None:
        """Return the invite of an invite public key."""
        return self._standing.invites.get(key)

    def invites(self) -> list[Invite]:
        """Return all invites, by expiry."""
        return sorted(self._standing.invites.values(), key=lambda invite: (invite.expires, invite.key))

    def invite_is_revoked(self, key: bytes) -> bool:
        """Say whether the root took this invite back."""
        return ("revocation", "invite", key) in self._records

    def free_slots(self, key: bytes) -> list[int]:
        """Return the slots of an invite that no membership known here takes."""
        invite = self._standing.invites.get(key)
        return [s for s in range(invite.uses) if (key, s) not in self._standing.slots] if invite else []

    def may_admit(self, public: bytes, membership: Record) -> bool:
        """Say whether an Admit by this key counts: by any member or the root; with `approve` by admins or the root."""
        body = membership.body
        invite = self.invite(body.invite) if isinstance(body, Membership) else None
        if public == self.root or invite is None:
            return invite is not None
        role = self.role(peer_id(public))
        return role == "admin" if invite.approve else role is not None

    def admissible(self, membership: Record, now: float, *, approved: bool = False) -> str | None:
        """Return why a member must not admit this membership at `now` (Unix seconds), None when it may.

        approved: a person said yes, which an invite with `approve` needs.
        """
        body = membership.body
        if not isinstance(body, Membership) or body.mesh != self.mesh_id:
            return "it is no membership of this mesh"
        invite = self.invite(body.invite)
        if invite is None:
            return "its invite is not known here"
        if self.is_revoked(peer_id(body.peer)):
            return "this peer was revoked"
        if self.invite_is_revoked(body.invite):
            return "the invite was revoked"
        if now > invite.expires:
            return "the invite has expired"
        return self._slot_trouble(invite, body) or ("an admin must approve it" if invite.approve > approved else None)

    def orphans(self, peer: bytes) -> list[Record]:
        """Return the memberships that stop counting when this peer is revoked: the root should admit them anew."""
        before = self._standing
        after = settle(self.root, self._records.values(), frozenset((peer,)))
        lost = before.admitted.keys() - after.admitted.keys()
        return [r for h, r in sorted(before.admitted.items()) if h in lost and peer_id(_membership(r).peer) != peer]

    def _slot_trouble(self, invite: Invite, body: Membership) -> str | None:
        taken = self._standing.slots.get((invite.key, body.slot), frozenset())
        if body.slot < invite.uses and taken <= {body.peer}:
            return None
        free = self.free_slots(invite.key)
        return f"slot {body.slot} is not free; free: {free[:4]}" if free else "the invite is used up"

    @property
    def _standing(self) -> Standing:
        if self._known is None:
            self._known = settle(self.root, self._records.values())
        return self._known

    def _sorted(self) -> list[Record]:
        grounded = self._standing.grounded.values()
        return sorted(grounded, key=lambda r: (_KIND_ORDER.index(type(r.body)), r.hash))

    def _make_room(self, new: Membership) -> bool:
        """Keep the two lowest peers of a slot: they prove that it is void, more would prove no more."""
        rivals = [
            (key, r.body.peer)
            for key, r in self._records.items()
            if isinstance(r.body, Membership) and (r.body.invite, r.body.slot) == (new.invite, new.slot)
        ]
        highest = max(rivals, key=lambda rival: rival[1], default=None)
        if highest is None or len(rivals) < 2 or any(peer == new.peer for _, peer in rivals):
            return True
        if new.peer > highest[1]:
            return False
        del self._records[highest[0]]
        return True


def _membership(record: Record) -> Membership:
    assert isinstance(record.body, Membership)
    return record.body


def _is_from_root(record: Record) -> bool:
    return isinstance(record.body, MeshInfo | Invite | Revocation)


def _slot_of(record: Record) -> tuple[object, ...]:
    """Return what a record speaks of: of two that speak of one thing, one is kept."""
    match record.body:
        case MeshInfo():
            return ("mesh",)
        case Invite(key=key):
            return ("invite", key)
        case Membership(invite=invite, slot=slot, peer=peer):
            return ("membership", invite, slot, peer)
        case Admit(membership=membership, by=by):
            return ("admit", membership, by)
        case Revocation(kind=kind, target=target):
            return ("revocation", kind, target)
        case Addresses(peer=peer):
            return ("addresses", peer)
        case TaskOffer(task=task, publisher=publisher):
            return ("task", hashlib.sha256(task).digest(), publisher)


def _rank(record: Record) -> tuple[int, bytes]:
    """Return the order among records that speak of one thing; the lowest is kept."""
    match record.body:
        case Admit(time=time) | Revocation(time=time) | TaskOffer(time=time) | Membership(joined=time):
            return (time, record.hash)
        case Addresses(seq=seq):
            return (-seq, record.hash)
        case _:
            return (0, record.hash)
