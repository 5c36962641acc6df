"""The exchange of a decentralized task with a fallback: rounds, and a node's buffer while no quorum is there.

    no quorum linked for after_seconds  ->  the mesh exchange steps aside (it goes on serving), the node is handed the
                                            certified state, updates are pushed there; each version becomes the base
    a quorum linked again, for a while  ->  the way to the node is closed, rounds go on from the newest version

switching.py decides, the trainer's calls act on it: between two updates, and never while an attempt may still send one.
What one way was sent is no part of what the other is: an update is measured from there. All charges are one Charging's.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import trio

from discod.daemon.charging import Charging
from discod.daemon.exchanging import ExchangeStatus
from discod.daemon.routing import RunEvent
from discod.daemon.switching import Switch, Way
from discod.daemon.workshop import Reached, reach_nothing
from discod.daemon.yielding import HostedVersions, RelievingExchange, YieldingExchange
from discod.identity import Identity, Members
from discod.p2p.mesh import Mesh
from discod.store import Store
from discod.train.rounds import JointState
from discod.train.task import TaskSpec, encode_task
from discod.train.vector import Vector
from discod.wire.federated import hosted_scope
from discod.wire.links import BulkHeader

LOOK_SECONDS = 0.5  # between two looks at what nothing tells of


class FallbackExchange:
    """A RunExchange (exchanging.py) over two others."""

    def __init__(
        self,
        *,
        task: TaskSpec,
        scope: bytes,
        members: Members,
        mesh: Mesh,
        identity: Identity,
        store: Store,
        initial_parameters: Vector,
        min_peers: int,
        notify: Callable[[str, dict[str, Any]], None],
        charging: Charging | None = None,
        reached: Reached = reach_nothing,
        jitter: random.Random | None = None,
    ) -> None:
        self._members, self._least, self._notify = members, min_peers, notify
        charging = charging or Charging(task)
        around: dict[str, Any] = {
            "task": task,
            "scope": scope,
            "members": members,
            "mesh": mesh,
            "identity": identity,
            "store": store,
            "initial_parameters": initial_parameters,
            "min_peers": min_peers,
            "notify": notify,
            "charging": charging,
            "reached": reached,
        }
        self._mesh = YieldingExchange(**around)
        hosted = hosted_scope(members.mesh_id, encode_task(task))

        def node() -> RelievingExchange:
            versions = HostedVersions(self._mesh, store, task, scope, hosted, initial_parameters, charging)
            return RelievingExchange(**around, jitter=jitter, versions=versions)

        self._make_node = node
        self._node: RelievingExchange | None = None
        self._visit = trio.CancelScope()
        self._switch = Switch(task.fallback.after_seconds, trio.current_time())
        self._sent: Vector | None = None  # the parameters of an update that a lost round may have sent, under this base
        self._moved = trio.Event()

    # -- what the daemon asks

    @property
    def batches(self) -> int:
        """Trained so far."""
        return self._mesh.batches

    @batches.setter
    def batches(self, batches: int) -> None:
        self._mesh.batches = batches
        if self._node is not None:
            self._node.batches = batches

    @property
    def parameters(self) -> Vector:
        """(d,) of the base; not to be written to."""
        return self._mesh.parameters

    @property
    def round(self) -> int:
        """Of the base; a version of the node counts as a round."""
        return self._mesh.round

    @property
    def base(self) -> bytes:
        """The (32,) hash of the base."""
        return self._mesh.base

    @property
    def certificate(self) -> bytes:
        """The encoded certificate of the base; empty before the first."""
        return self._mesh.certificate

    def set_out(self) -> Vector:
        """(d,) the base that training goes on from."""
        return self._mesh.set_out()

    def status(self) -> ExchangeStatus:
        """Where the way in use stands."""
        status = (self._node or self._mesh).status()
        way = Way.MESH if self._node is None else Way.NODE
        return msgspec.structs.replace(status, way=way.value, switches=self._switch.switches)

    def round_of(self, peer: bytes) -> int | None:
        """The round of the state that a linked peer said it stands on."""
        return self._mesh.round_of(peer)

    def retire(self, why: str = "finished") -> None:
        """This peer trains no more; it goes on serving its state."""
        self._mesh.retire(why)
        if self._node is not None:
            self._node.retire(why)

    def members_changed(self) -> None:
        """The member set of its mesh is another."""
        self._mesh.members_changed()
        self._look()

    def deliver(self, event: RunEvent) -> None:
        """Take a link event, a message or a transfer. Raises: Refused, Broken."""
        try:
            self._mesh.deliver(event)
        finally:
            self._look()

    def expect(self, peer: bytes, header: BulkHeader) -> memoryview | None:
        """Where a transfer that is waited for goes."""
        return self._mesh.expect(peer, header)

    # -- which way

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive both until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._mesh.run)
            self._look()
            nursery.start_soon(self._keep_time)
            task_status.started()
            while True:
                if self._node is None:
                    await self._moved.wait()
                    continue
                with self._visit:
                    await self._node.run()

    async def _keep_time(self) -> None:
        while True:
            with trio.move_on_at(self._switch.deadline):
                await self._moved.wait()
            self._look()

    def _look(self) -> None:
        """Tell the switch what is linked; wake whoever waits for what it decides."""
        deadline, way = self._switch.deadline, self._switch.way
        self._switch.quorum(self._mesh.linked + 1 >= self._least, trio.current_time())
        if (deadline, way) != (self._switch.deadline, self._switch.way):
            self._wake()

    def _wake(self) -> None:
        self._moved.set()
        self._moved = trio.Event()

    @property
    def _is_to_go(self) -> bool:
        return self._node is None and self._switch.way is Way.NODE and self._mesh.is_free

    @property
    def _is_to_return(self) -> bool:
        return self._node is not None and self._switch.way is Way.MESH

    def _settle(self, *, trained: bool) -> None:
        """Go the way that the switch has decided on, with an update that was `trained` or before one is."""
        if self._is_to_go:
            self._mesh.step_aside()
            self._node, self._visit = self._make_node(), trio.CancelScope()
            self._node.batches = self._mesh.batches
            if trained or self._sent is not None:
                self._node.measure_from(self._sent)
            self._notify("fallback.entered", {"round": self.round, "linked": self._mesh.linked})
            self._wake()
        elif self._is_to_return and self._node is not None:
            self._sent = self._node.sent_so_far
            self._mesh.measure_from(self._sent)
            self._node = None
            self._visit.cancel()
            self._notify("fallback.left", {"round": self.round, "linked": self._mesh.linked})

    # -- training

    async def round_begin(self) -> JointState | None:
        """A newer base to start from, if there is one."""
        self._settle(trained=False)
        if self._node is None:
            return self._came(await self._mesh.round_begin())
        return self._came(self._follow() or await self._node.round_begin())

    def _follow(self) -> JointState | None:
        """The base, if a linked peer's state has become it meanwhile."""
        return self._node.rebase() if self._node is not None and self._node.base != self._mesh.base else None

    def _came(self, state: JointState | None) -> JointState | None:
        self._sent = self._sent if state is None else None
        return state

    async def round_end(self, local: Vector, weight: int) -> JointState | None:
        """Offer the update to whichever way is open until one has answered; no answer of both: wait for either."""
        while True:
            before = self._node
            self._settle(trained=True)
            if (node := self._node) is None:
                if before is not None and (newer := await self._mesh.round_begin()) is not None:
                    return self._came(newer)
                found, is_over = await self._until(lambda: self._is_to_go, self._mesh.round_end, local, weight)
                if is_over:
                    self._sent = local.copy() if found is None else None
                    return found
            elif (followed := self._follow()) is not None:
                return self._came(followed)
            elif node.is_in:
                found, is_over = await self._until(lambda: self._is_to_return, node.round_end, local, weight)
                if is_over:
                    return self._came(found)
            else:
                await self._until(lambda: self._is_to_return or node.is_in, trio.sleep_forever)

    async def _until(
        self, condition: Callable[[], bool], work: Callable[..., Awaitable[JointState | None]], *args: Any
    ) -> tuple[JointState | None, bool]:
        """(what the work answers, True), or (None, False) when the condition came first."""
        found, is_over = None, False

        async def watch() -> None:
            while not condition():
                with trio.move_on_after(LOOK_SECONDS):
                    await self._moved.wait()
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            found, is_over = await work(*args), True
            nursery.cancel_scope.cancel()
        return found, is_over
