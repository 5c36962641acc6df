"""The tasks of the meshes: found in signed offers, published as such, shown with who accepted them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog
from msgspec import Struct

from discod.control.events import EventLog
from discod.daemon.meshes import Meshes
from discod.daemon.names import choose, matches
from discod.daemon.routing import Router, scope_of
from discod.errors import BadData, NotAllowed, UsageError
from discod.identity import Identity, TaskOffer, make_offer, peer_id, short_id, show_id
from discod.store import Store, TaskRow
from discod.train.explaining import explain
from discod.train.layers import parameter_count
from discod.train.task import TaskSpec, encode_task
from discod.train.taskfile import decode_task, dump_task, load_task


class OfferedTask(Struct, frozen=True):
    """A task of one mesh."""

    id: bytes
    mesh: bytes
    scope: bytes
    spec: TaskSpec
    publisher: bytes  # PeerId
    published: int


class Tasks:
    """What is offered in all meshes, in the order of publication."""

    def __init__(self, meshes: Meshes, store: Store, router: Router, identity: Identity, events: EventLog) -> None:
        self._meshes, self._store, self._router, self._identity = meshes, store, router, identity
        self._events = events
        self._known: dict[tuple[bytes, bytes], OfferedTask] = {}  # (mesh, task)
        self._bad: set[bytes] = set()
        self._told: set[tuple[bytes, bytes]] = set()  # (scope, PeerId)

    def scan(self, mesh: bytes) -> None:
        """Take note of offers that are new in a mesh."""
        members = self._meshes.members(mesh)
        for offer in members.tasks():
            if offer.task in self._bad or (task := self._decoded(offer)) is None:
                continue
            if (mesh, task.id) not in self._known:
                self._known[mesh, task.id] = task
                self._router.know(task.scope, members.trainers)
                by = members.name(task.publisher)
                name = self._meshes.mesh_name(mesh)
                self._events.add("task.published", mesh=name, task=task.spec.name, short=short_id(task.id), by=by)

    def _decoded(self, offer: TaskOffer) -> OfferedTask | None:
        try:
            spec = decode_task(offer.task)
        except BadData as error:
            self._bad.add(offer.task)
            structlog.get_logger().warning("task.refused", by=short_id(peer_id(offer.publisher)), why=error.message)
            return None
        scope = scope_of(offer.mesh, spec.id)
        return OfferedTask(spec.id, offer.mesh, scope, spec, peer_id(offer.publisher), offer.time)

    def keep(self, task: OfferedTask) -> None:
        """Put a task into the store, for the runs that refer to it.  Raises: UserError (disk-full)."""
        if self._store.task(task.id) is None:
            row = TaskRow(
                task.id, task.mesh, task.spec.name, encode_task(task.spec), False, None, "offered", time.time()
            )
            self._store.save_task(row)

    def publish(self, toml: str, mesh_ref: str | None) -> OfferedTask:
        """Offer the task of a task file to a mesh.

        Raises: BadData (the task file), UsageError (name-taken, local), NotAllowed.
        """
        spec = load_task(toml)
        mesh = self._meshes.find(mesh_ref)
        members = self._meshes.members(mesh)
        if spec.scheme == "local":
            why = f"'{spec.name}' has scheme local: it is trained alone"
            raise UsageError(why, f"discod train {spec.name} --local", code="local-task")
        if (mesh, spec.id) in self._known:
            return self._known[mesh, spec.id]
        if any(task.spec.name == spec.name for task in self.all([mesh])):
            raise UsageError(
                f"the mesh has another task called '{spec.name}'", "change name in the task file", code="name-taken"
            )
        if not members.may_publish(self._identity.public):
            raise NotAllowed(
                "only the mesh's creator and its admins publish tasks", "ask one of them: discod peers shows roles"
            )
        self._meshes.net.publish(mesh, make_offer(self._identity, mesh, encode_task(spec), int(time.time())))
        self._meshes.changed(mesh)
        self.scan(mesh)
        return self._known[mesh, spec.id]

    def all(self, meshes: list[bytes]) -> list[OfferedTask]:
        """The tasks of these meshes."""
        return [task for task in self._known.values() if task.mesh in meshes]

    def of_id(self, mesh: bytes, task: bytes) -> OfferedTask | None:
        """The task of an id, None while no offer of it is here."""
        return self._known.get((mesh, task))

    def find(self, ref: str, mesh_ref: str | None) -> OfferedTask:
        """The task of a name or id. Raises: UsageError."""
        meshes = self._meshes.some(mesh_ref)
        return choose("task", ref, [task for task in self.all(meshes) if matches(ref, task.id, task.spec.name)])

    def of_peer(self, mesh: bytes, peer: bytes, round_of: Callable[[bytes, bytes], int | None]) -> list[dict[str, Any]]:
        """What a peer takes part in, as far as it was heard; `round_of(scope, peer)` says how far it is."""
        return [
            {
                "task": task.spec.name,
                "accepted": peer in self._router.heard(task.scope),
                "round": round_of(task.scope, peer),
            }
            for task in self.all([mesh])
        ]

    def newly_heard(self, peer: bytes) -> list[OfferedTask]:
        """The tasks in whose scope a peer was heard and that were not told of before."""
        found = []
        for task in self._known.values():
            if peer in self._router.heard(task.scope) and (task.scope, peer) not in self._told:
                self._told.add((task.scope, peer))
                found.append(task)
        return found

    def accepted_by(self, task: OfferedTask, mine: bool) -> list[str]:
        """The names of those whose Adverts were heard, and this peer if it accepted."""
        members = self._meshes.members(task.mesh)
        heard = {members.name(peer) for peer in self._router.heard(task.scope)}
        return sorted(heard | ({members.name(self._identity.peer_id)} if mine else set()))

    def show(self, task: OfferedTask, mine: dict[str, Any] | None) -> dict[str, Any]:
        """The Task of the control API, as lists have it."""
        spec = task.spec
        return {
            "name": spec.name,
            "id": show_id(task.id),
            "short": short_id(task.id),
            "mesh": self._meshes.mesh_name(task.mesh),
            "scheme": spec.scheme,
            "aggregator": spec.aggregator,
            "min_peers": spec.min_peers,
            "rounds": spec.rounds,
            "round_duration": spec.round_duration,
            "published_by": self._meshes.members(task.mesh).name(task.publisher),
            "published": task.published,
            "accepted_by": self.accepted_by(task, mine is not None),
            "mine": mine,
        }

    def details(self, task: OfferedTask) -> dict[str, Any]:
        """What only one task shows: its file, and what it does in words."""
        peers = len(self._meshes.members(task.mesh).trainers())
        lines = explain(task.spec, parameter_count(task.spec), max(peers, task.spec.min_peers))
        return {
            "privacy": msgspec.to_builtins(task.spec.privacy),
            "toml": dump_task(task.spec),
            "summary": [*lines, "code      none: the model is declared, not programmed"],
        }
