"""A mesh exchange that steps aside while a node combines updates, and whose base the node's versions become.

It owns the base all the while: one writer, and the fork rule looks at every change. Aside it goes on serving.
"""

from __future__ import annotations

import numpy as np
import trio

from discod.daemon.charging import Charging
from discod.daemon.exchange import DecentralizedExchange
from discod.daemon.federated import FederatedExchange
from discod.daemon.versions import Base, Place, Versions
from discod.daemon.workshop import Candidate
from discod.errors import Broken
from discod.p2p.hosted import Said, hosted_certificate, is_hosted, version_name
from discod.p2p.hosting import NewVersion
from discod.store import Store
from discod.train.rounds import JointState
from discod.train.task import TaskSpec
from discod.train.vector import Vector
from discod.wire.codec import encode
from discod.wire.rounds import Certificate


class YieldingExchange(DecentralizedExchange):
    """See the module."""

    _ground: tuple[bytes, Vector] | None = None  # under which base, which parameters were sent to the node

    @property
    def is_free(self) -> bool:
        """Whether no attempt is under way, so that its update cannot leave any more."""
        return self._machine.attempt is None

    @property
    def linked(self) -> int:
        """Trainers of the mesh that are linked."""
        return len(self._linked & self._members.trainers())

    @property
    def own_certificate(self) -> Certificate | None:
        """Of the base; None before the first."""
        return self._machine.chain.headers.get(self.base)

    def step_aside(self) -> None:
        """Take no part in rounds until training begins here again."""
        self._perform(self._machine.retired("no quorum is linked: it goes on through the node", trio.current_time()))

    def measure_from(self, ground: Vector | None) -> None:
        """What was learned before `ground` (d,) was sent to the node, and is not sent here, under this base."""
        self._ground = None if ground is None else (self.base, ground)

    async def round_begin(self) -> JointState | None:
        """As in a mesh; but what the node was sent is no part of the update."""
        if self._ground is not None and self._ground[0] == self.base:
            self._origin = self._shop.base
        newer = await super().round_begin()
        if newer is None and self._ground is not None:
            self._origin = self._ground[1]
        self._ground = None
        return newer

    async def take(self, place: bytes, new: NewVersion, key: bytes) -> None:
        """Make a version the base, on disk first.  Raises: Broken (it does not follow the base), UserError."""
        said, machine = new.said, self._machine
        host = machine.chain.host
        assert host is not None, "only a task with a fallback is hosted"
        carried = Said(key, said.parent, said.hash, said.contributors)
        head, certificate = hosted_certificate(machine.rules.scope, host, place, said.version, carried, said.signature)
        await self._shop.keep(Candidate(head, np.frombuffer(new.total, "<f4"), said.contributors))
        machine.chain.add(certificate)
        self._perform(machine.fetched(head, trio.current_time()))
        while self._held:
            await self._changed.wait()
        if self.base != certificate.state:
            raise Broken(None, "a version that does not follow what this peer stands on")
        self._origin, self._dropped = self._shop.base, False


class HostedVersions(Versions):
    """The versions that a node makes from where a mesh exchange stands."""

    def __init__(
        self,
        mesh: YieldingExchange,
        store: Store,
        task: TaskSpec,
        scope: bytes,
        hosted: bytes,
        first: Vector,
        charging: Charging,
    ) -> None:
        super().__init__(store, task, scope, hosted, first, charging)
        self._mesh = mesh
        self._forgotten = b""  # a base whose buffer the node has lost: a new one begins with it

    def load(self) -> Base:
        """Where the mesh exchange stands."""
        mesh, certificate = self._mesh, self._mesh.own_certificate
        contributors = mesh.status().roster
        host, name = mesh._machine.chain.host, mesh.base
        if certificate is not None and is_hosted(certificate) and host is not None and not self._is_forgotten:
            name = version_name(certificate, host)
        return Base(mesh.round, mesh.base, mesh.parameters, contributors, mesh.certificate, name)

    @property
    def _is_forgotten(self) -> bool:
        return self._forgotten == self._mesh.base

    @property
    def place(self) -> Place:
        """A version's buffer is where it came from; a mesh's state opens its own."""
        mesh, certificate = self._mesh, self._mesh.own_certificate
        if certificate is not None and is_hosted(certificate) and not self._is_forgotten:
            return Place(certificate.parent)
        head = mesh._machine.chain.base
        return Place(mesh.base, encode(head), mesh.parameters.astype("<f4", copy=False).tobytes())

    def not_known(self) -> None:
        """The node lost the buffer: the next one begins with the version that this peer has."""
        self._forgotten = self._mesh.base

    async def take(self, new: NewVersion, key: bytes) -> Base:
        """Make a version the base of the mesh exchange.  Raises: Broken, UserError (disk-full)."""
        await self._mesh.take(self.place.origin, new, key)
        return self.load()


class RelievingExchange(FederatedExchange):
    """A federated exchange that takes over, and hands back, in the middle of a task."""

    @property
    def is_in(self) -> bool:
        """Whether the node has let this peer in."""
        return self._line is not None

    def measure_from(self, ground: Vector | None) -> None:
        """Something was trained already; what was learned before `ground` (d,) was sent elsewhere, and is not again."""
        self._untouched = False
        if ground is not None:
            self._ground = self._origin = ground

    @property
    def sent_so_far(self) -> Vector | None:
        """(d,) the parameters of the last push that may have left since the base; what came before it is not sent."""
        ground = None if self._ground is self._base.parameters else self._ground
        return self._sent[max(self._sent)] if self._sent else ground

    def rebase(self) -> JointState:
        """The base has changed in the store: go on from that."""
        self._base = self._versions.load()
        self._hang_up("this peer stands elsewhere now")
        return self._joint()
