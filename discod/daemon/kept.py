"""What an exchange keeps in the store: joint states with their heads, certificates, spent records."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from discod.daemon.charging import Charging
from discod.daemon.releasing import charging_for
from discod.errors import BadData
from discod.identity import parse_id
from discod.p2p.chain import Chain
from discod.p2p.hosted import Host, is_hosted, said_of
from discod.privacy.peers import Portion
from discod.ring import hash_floats
from discod.store import Header, SpentRow, Store
from discod.train.task import TaskSpec, encode_task
from discod.train.vector import Vector
from discod.wire.codec import decode, decoder, encode
from discod.wire.federated import hosted_scope
from discod.wire.rounds import Certificate, Head, head_hash, parse_envelope

PARAMETERS, BOUND = "parameters", "bound"  # names in a state's file
_certificate = decoder(Certificate)


class Kept(NamedTuple):
    """Where a task stands on disk: the base, the certificates of the last rounds, the base's roster, Manifests sent."""

    head: Head
    parameters: Vector  # (d,)
    certificates: tuple[Certificate, ...]
    roster: tuple[bytes, ...]
    manifests: int


def host_of(task: TaskSpec, mesh: bytes) -> Host | None:
    """The node that a decentralized task may fall back to."""
    if not task.has_fallback:
        return None
    return Host(parse_id(task.fallback.node), hosted_scope(mesh, encode_task(task)), task.aggregation.bound)


def chain_of(kept: Kept, task: TaskSpec, mesh: bytes) -> Chain:
    """The certified past as it is on disk."""
    return Chain(kept.head, kept.certificates, kept.roster, host_of(task, mesh))


class Shelf:
    """One task's part of the store. Blocking: writes are called in a thread, one at a time."""

    def __init__(self, store: Store, task: TaskSpec, scope: bytes, charging: Charging | None = None) -> None:
        self._store, self._task, self._scope = store, task, scope
        self._charging = charging or charging_for(task)
        self._written: set[bytes] = set()  # states whose certificates are on disk

    def load(self, first: Vector) -> Kept:
        """Where the task stands; at round 0 with its `first` parameters (d,). Raises: BadData (damaged)."""
        base = self._store.load_base(self._task.id)
        if base is None:
            head = Head(self._scope, 0, bytes(32), self._task.aggregation.bound, hash_floats(first))
            return Kept(head, first, (), (), self._manifests(head_hash(head)))
        head, parameters = self._state(base.header, base.vectors.get(PARAMETERS), base.info.get(BOUND, ""))
        headers = self._store.headers(self._task.id)
        certificates = tuple(decode(_certificate, header.certificate) for header in headers)
        self._written = {header.state for header in headers}
        own = decode(_certificate, base.header.certificate)
        senders = (parse_envelope(signed).sender for signed in own.adverts)
        roster = said_of(own).contributors if is_hosted(own) else tuple(senders)
        return Kept(head, parameters, certificates, roster, self._manifests(base.header.state))

    def _manifests(self, base: bytes) -> int:
        return len(self._store.spent(self._task.id, base))

    def _state(self, header: Header, parameters: Vector | None, bound: str) -> tuple[Head, Vector]:
        """A state from its file, believed only if it has the hash it was saved under."""
        if parameters is not None:
            try:
                scale = float.fromhex(bound)
            except ValueError:
                scale = 0.0
            head = Head(self._scope, header.round, header.parent, scale, hash_floats(parameters))
            if head_hash(head) == header.state:
                return head, parameters
        why = f"the saved state of '{self._task.name}' after round {header.round} is damaged"
        raise BadData(why, "move the state directory away: peers will send the model again", code="damaged")

    def save(self, head: Head, parameters: Vector) -> None:
        """A state that may become the base. Raises: UserError (disk-full)."""
        info = {BOUND: head.bound.hex()}
        self._store.save_candidate(self._task.id, head_hash(head), {PARAMETERS: parameters}, info)

    def load_candidate(self, head: Head) -> Vector:
        """The parameters of a state that was saved. Raises: BadData."""
        state = head_hash(head)
        vectors, info = self._store.load_state(self._task.id, state) or ({}, {})
        header = Header(state, head.parent, head.round, b"")
        return self._state(header, vectors.get(PARAMETERS), info.get(BOUND, ""))[1]

    def spend(self, base: bytes, rid: bytes, batches: int) -> None:
        """The update of so many batches, trained from `base`, is about to be sent: note that, and charge for it.

        Raises: BudgetExhausted, LedgerDamaged, UserError (disk-full).
        """
        charge = self._charging.charge(batches)
        self._store.spend(self._task.id, SpentRow(base, batches, rid, 0.0, None), charge)
        self._charging.paid(batches)

    def certify(
        self, certificate: Certificate, known: Iterable[Certificate], sent: Portion | None = None, included: int = 0
    ) -> None:
        """The state of `certificate` is the base, in one transaction with every other certificate not yet on disk.

        `sent`: this peer's noise in the attempt that made it, and how many are in the sum; 0 without this peer.
        """
        change = self._charging.amend(sent, included) if sent is not None else None
        others = [c for c in known if c.state != certificate.state and c.state not in self._written]
        headers = [_header(c) for c in (*others, certificate)]
        self._store.certify(self._task.id, headers, change)
        self._written |= {header.state for header in headers}


def _header(certificate: Certificate) -> Header:
    return Header(certificate.state, certificate.parent, certificate.round, encode(certificate))
