"""What a set of records amounts to: invites, slots, who was admitted, who is a member now. One pure function."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from discod.identity.ids import peer_id
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
)

WIDTH: dict[Role, int] = {"admin": 0, "trainer": 1, "observer": 2}


class Member(Struct, frozen=True):
    """A current member."""

    key: bytes
    role: Role
    name: str


class Standing(Struct, frozen=True):
    """The meaning of a record set. Keys named `peer` are PeerIds; slots are (invite key, slot) -> public keys."""

    invites: dict[bytes, Invite]
    slots: dict[tuple[bytes, int], frozenset[bytes]]
    admitted: dict[bytes, Record]  # record hash -> membership, also voided ones
    members: dict[bytes, Member]
    keys: dict[bytes, bytes]
    names: dict[bytes, str]
    revoked: frozenset[bytes]
    voided: frozenset[bytes]
    grounded: dict[bytes, Record]  # record hash -> record that counts


class _Case(Struct, frozen=True):
    """What an admit is judged by."""

    invites: dict[bytes, Invite]
    claims: dict[bytes, Record]  # record hash -> membership of a known invite
    revoked: frozenset[bytes]  # PeerIds
    cancelled: dict[bytes, int]  # invite key -> when it was revoked

    def claim(self, admit: Admit) -> Membership:
        return _claim(self.claims[admit.membership])

    def invite(self, admit: Admit) -> Invite:
        return self.invites[self.claim(admit).invite]


def settle(root: bytes, records: Iterable[Record], also_revoked: frozenset[bytes] = frozenset()) -> Standing:
    """Return what the records amount to; `also_revoked` peers are taken as revoked (to ask what that would do)."""
    held = list(records)
    invites = {r.body.key: r.body for r in held if isinstance(r.body, Invite)}
    claims = {r.hash: r for r in held if _is_claim(r, invites)}
    revocations = [r.body for r in held if isinstance(r.body, Revocation)]
    revoked = also_revoked | {peer_id(r.target) for r in revocations if r.kind == "peer"}
    case = _Case(invites, claims, revoked, {r.target: r.time for r in revocations if r.kind == "invite"})
    counting, powers = _spread(root, held, case)
    admitted = {h: claims[h] for h in sorted({_admit(r).membership for r in counting.values()})}
    slots = _slots(claims.values())
    return Standing(
        invites=invites,
        slots=slots,
        admitted=admitted,
        members=_members([r for r in admitted.values() if _is_good(r, slots, revoked)], invites),
        keys={peer_id(_claim(r).peer): _claim(r).peer for r in claims.values()},
        names={peer_id(_claim(r).peer): _claim(r).name for r in sorted(claims.values(), key=_seniority, reverse=True)},
        revoked=revoked,
        voided=frozenset(peer_id(_claim(r).peer) for r in claims.values() if len(slots[_slot(r)]) > 1),
        grounded=_grounded(held, claims, counting, powers),
    )


def _spread(root: bytes, held: list[Record], case: _Case) -> tuple[dict[bytes, Record], dict[bytes, bool]]:
    """Follow the admits from the root. Returns the admits that count by hash, and signer key -> is admin."""
    powers: dict[bytes, bool] = {root: True}
    counting: dict[bytes, Record] = {}
    waiting = {r.hash: r for r in held if isinstance(r.body, Admit) and _in_time(r.body, case)}
    while ready := [r for r in waiting.values() if _may(_admit(r), case, powers)]:
        for record in ready:
            counting[record.hash] = waiting.pop(record.hash)
            admit = _admit(record)
            key = case.claim(admit).peer
            powers[key] = powers.get(key, False) or case.invite(admit).role == "admin"
    return counting, powers


def _in_time(admit: Admit, case: _Case) -> bool:
    if admit.membership not in case.claims:
        return False
    invite = case.invite(admit)
    return admit.time <= min(invite.expires, case.cancelled.get(invite.key, invite.expires))


def _may(admit: Admit, case: _Case, powers: dict[bytes, bool]) -> bool:
    if admit.by not in powers or peer_id(admit.by) in case.revoked:
        return False
    return powers[admit.by] or not case.invite(admit).approve


def _is_good(record: Record, slots: dict[tuple[bytes, int], frozenset[bytes]], revoked: frozenset[bytes]) -> bool:
    return len(slots[_slot(record)]) == 1 and peer_id(_claim(record).peer) not in revoked


def _members(good: list[Record], invites: dict[bytes, Invite]) -> dict[bytes, Member]:
    """Return PeerId -> member; of several memberships the one with the widest role speaks, then the oldest."""
    members = {}
    for record in sorted(good, key=lambda r: (WIDTH[invites[_claim(r).invite].role], _seniority(r)), reverse=True):
        claim = _claim(record)
        members[peer_id(claim.peer)] = Member(claim.peer, invites[claim.invite].role, claim.name)
    return members


def _grounded(
    held: list[Record], claims: dict[bytes, Record], counting: dict[bytes, Record], powers: dict[bytes, bool]
) -> dict[bytes, Record]:
    claimants = {_claim(r).peer for r in claims.values()}

    def counts(record: Record) -> bool:
        match record.body:
            case Membership():
                return record.hash in claims
            case Admit():
                return record.hash in counting
            case TaskOffer(publisher=publisher):
                return powers.get(publisher, False)
            case Addresses(peer=peer):
                return peer in claimants
            case MeshInfo() | Invite() | Revocation():
                return True

    return {record.hash: record for record in held if counts(record)}


def _slots(claims: Iterable[Record]) -> dict[tuple[bytes, int], frozenset[bytes]]:
    slots: dict[tuple[bytes, int], set[bytes]] = {}
    for record in claims:
        slots.setdefault(_slot(record), set()).add(_claim(record).peer)
    return {slot: frozenset(keys) for slot, keys in slots.items()}


def _is_claim(record: Record, invites: dict[bytes, Invite]) -> bool:
    body = record.body
    return isinstance(body, Membership) and body.invite in invites and body.slot < invites[body.invite].uses


def _claim(record: Record) -> Membership:
    assert isinstance(record.body, Membership)
    return record.body


def _admit(record: Record) -> Admit:
    assert isinstance(record.body, Admit)
    return record.body


def _slot(record: Record) -> tuple[bytes, int]:
    return (_claim(record).invite, _claim(record).slot)


def _seniority(record: Record) -> tuple[int, bytes]:
    return (_claim(record).joined, record.hash)
