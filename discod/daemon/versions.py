"""What a federated exchange keeps in the store: the last version that the node published, and what was spent.

A version is kept as its node signed it (`total`, the sum of all means) and used as first + total: the same bits on
every peer. Version 0 is what the task begins with; it is not kept. Blocking: called in a thread, one call at a time.
"""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import trio
from msgspec import Struct

from discod.daemon.charging import Charging
from discod.daemon.releasing import charging_for, noised_update
from discod.errors import BadData
from discod.identity import parse_id, peer_id, verify
from discod.p2p.hosting import NewVersion
from discod.privacy.peers import plan_peer_noise
from discod.ring import NotFinite, hash_floats
from discod.store import Header, SpentRow, Store
from discod.train.task import TaskSpec
from discod.train.vector import Vector
from discod.wire.codec import decode, decoder, encode
from discod.wire.federated import VERSION_LABEL, Published, version_state
from discod.wire.rounds import Head, head_hash

TOTAL = "total"  # the vector's name in a state's file


class _Kept(Struct, frozen=True, array_like=True):
    """A version's certificate: what the node said, and the key it is signed with."""

    said: Published
    key: bytes


_kept = decoder(_Kept)


class Base(Struct, frozen=True):
    """The version that training goes on from: its name `state`, its parameters (d,), which are never written to.

    `name` is what the node calls it: the state's name too, but in a fallback.
    """

    version: int
    state: bytes
    parameters: Vector
    contributors: tuple[bytes, ...]
    certificate: bytes
    name: bytes


class Place(Struct, frozen=True):
    """Which buffer of the node: its origin, and what it begins with, if this peer has that (hosting.Stay)."""

    origin: bytes
    head: bytes = b""
    vector: bytes = b""


class Versions:
    """One task's part of the store. `origin` names the state that all peers of the task start from."""

    def __init__(
        self, store: Store, task: TaskSpec, scope: bytes, hosted: bytes, first: Vector, charging: Charging | None
    ) -> None:
        self._store, self._task, self._hosted, self._first = store, task, hosted, first
        self._charging = charging or charging_for(task)
        self.origin = head_hash(Head(scope, 0, bytes(32), task.aggregation.bound, hash_floats(first)))

    def load(self) -> Base:
        """Where the task stands.  Raises: BadData (damaged)."""
        found = self._store.load_base(self._task.id)
        if found is None:
            return Base(0, self.origin, self._first, (), b"", self.origin)
        kept, total = decode(_kept, found.header.certificate), found.vectors.get(TOTAL)
        if total is None or hash_floats(total) != kept.said.hash or self._named(kept) != found.header.state:
            why = f"the saved version {found.header.round} of '{self._task.name}' is damaged"
            raise BadData(why, "move the state directory away: the node has the model", code="damaged")
        return self._base(kept, found.header.state, total, found.header.certificate)

    def _named(self, kept: _Kept) -> bytes:
        """The state that a certificate is for; empty when the task's node did not sign it."""
        said = kept.said
        state = version_state(self._hosted, self.origin, said.version, said.parent, said.hash)
        theirs = peer_id(kept.key) == parse_id(self._task.federated.node)
        return state if theirs and verify(kept.key, VERSION_LABEL, state, said.signature) else b""

    def _base(self, kept: _Kept, state: bytes, total: Vector, certificate: bytes) -> Base:
        said = kept.said
        return Base(said.version, state, self._first + total, said.contributors, certificate, state)

    @property
    def place(self) -> Place:
        """The buffer that the versions come from."""
        return Place(self.origin)

    def not_known(self) -> None:
        """The node does not know the place, nor was it told what is there."""

    async def take(self, new: NewVersion, key: bytes) -> Base:
        """Make a version the base, on disk first.  Raises: UserError (disk-full)."""
        return await trio.to_thread.run_sync(self.adopt, new, key)

    def adopt(self, new: NewVersion, key: bytes) -> Base:
        """Make a version the base, on disk first.  Raises: UserError (disk-full)."""
        total, said = np.frombuffer(new.total, "<f4"), new.said
        kept = _Kept(said, key)
        certificate = encode(kept)
        self._store.save_candidate(self._task.id, new.state, {TOTAL: total})
        self._store.certify(self._task.id, [Header(new.state, said.parent, said.version, certificate)])
        return self._base(kept, new.state, total, certificate)

    def covers(self, batches: int) -> bool:
        """Whether the task's privacy is planned for this update too: an asynchronous peer may train more rounds."""
        return self._charging.covers(batches)

    def update_bytes(self, local: Vector, origin: Vector) -> bytes:
        """local - origin, both (d,), with the noise of a task of unit peer, as it travels.  Raises: NotFinite."""
        if (noise := plan_peer_noise(self._task)) is not None:
            return noised_update(local, origin, noise).astype("<f4", copy=False).tobytes()
        return update_bytes(local, origin)

    def spend(self, base: bytes, seq: int, vector: bytes, batches: int) -> bytes:
        """An update is about to leave: note that, and charge for it; the (32,) hash of the vector.

        Raises: BudgetExhausted, LedgerDamaged, UserError (disk-full).
        """
        hash_ = sha256(vector).digest()
        charge = self._charging.charge(batches)
        rid = sha256(b"discod/push/1" + base + seq.to_bytes(8, "little") + hash_).digest()
        self._store.spend(self._task.id, SpentRow(base, batches, rid, 0.0, None), charge)
        self._charging.paid(batches)
        return hash_


def update_bytes(local: Vector, origin: Vector) -> bytes:
    """local - origin, both (d,), as it travels.  Raises: NotFinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        update = np.subtract(local, origin, dtype=np.float32)
    if not np.isfinite(update).all():
        raise NotFinite(int(np.argmin(np.isfinite(update))))
    return update.astype("<f4", copy=False).tobytes()
