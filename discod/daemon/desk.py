"""The desk: what each route of the control API does. A route has no logic of its own: it asks and shows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import trio

import discod
from discod.control.app import Call, Operation
from discod.control.events import EventLog
from discod.daemon import requests
from discod.daemon.budgets import Budgets
from discod.daemon.invites import Invites
from discod.daemon.meshes import Meshes
from discod.daemon.operations import Operations, Progress
from discod.daemon.peers import Peers
from discod.daemon.runs import Runs
from discod.daemon.showing import memory_mb
from discod.daemon.sources import Sources
from discod.daemon.surroundings import Engine
from discod.daemon.tasks import OfferedTask, Tasks
from discod.daemon.words import unreachable
from discod.errors import Exit, UsageError, UserError
from discod.identity import Identity, parse_link, short_id, show_id

LINKS_SECONDS = 3.0  # after a join, so that its answer says who is linked how
LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Desk:
    """Everything a route may ask."""

    identity: Identity
    meshes: Meshes
    invites: Invites
    peers: Peers
    tasks: Tasks
    runs: Runs
    sources: Sources
    budgets: Budgets
    operations: Operations
    events: EventLog
    engine: Engine
    warnings: list[dict[str, str]]  # of the start: a port that was taken
    started: float
    stop: Callable[[], None]

    def table(self) -> list[Operation]:
        """All routes but /v1/events."""
        get, post = "GET", "POST"
        nothing = requests.NoBody
        return [
            Operation(get, "/healthz", "health", self.health),
            Operation(get, "/readyz", "health", self.ready),
            Operation(get, "/v1/status", "status", self.status),
            Operation(post, "/v1/shutdown", "shutdown", self.shutdown, nothing, 202),
            Operation(get, "/v1/meshes", "meshes", self.all_meshes),
            Operation(post, "/v1/meshes", "mesh", self.create_mesh, requests.NewMesh, 201),
            Operation(get, "/v1/meshes/{ref}", "mesh", self.one_mesh),
            Operation(post, "/v1/join", "op", self.join, requests.Join, 202),
            Operation(get, "/v1/ops/{ref}", "op", self.one_operation),
            Operation(get, "/v1/invites", "invites", self.all_invites),
            Operation(post, "/v1/invites", "invite", self.make_invite, requests.NewInvite, 201),
            Operation(post, "/v1/invites/{ref}/revoke", "invite", self.revoke_invite, nothing),
            Operation(get, "/v1/peers", "peers", self.all_peers),
            Operation(get, "/v1/peers/{ref}", "peer", self.one_peer),
            Operation(get, "/v1/datasets", "datasets", self.all_datasets),
            Operation(get, "/v1/privacy", "privacy", self.all_budgets),
            Operation(get, "/v1/privacy/{ref}", "privacy", self.one_budget),
            Operation(post, "/v1/privacy/{ref}/raise", "privacy", self.raise_budget, requests.RaiseBudget),
            Operation(get, "/v1/tasks", "tasks", self.all_tasks),
            Operation(post, "/v1/tasks", "task", self.publish, requests.NewTask, 201),
            Operation(get, "/v1/tasks/{ref}", "task", self.one_task),
            Operation(get, "/v1/tasks/{ref}/privacy", "forecast", self.forecast),
            Operation(post, "/v1/tasks/{ref}/accept", "run", self.accept, requests.Accept, 202),
            Operation(get, "/v1/runs", "runs", self.all_runs),
            Operation(get, "/v1/runs/{ref}", "run", self.one_run),
            Operation(get, "/v1/models", "models", self.all_models),
        ]

    # -- the daemon

    async def health(self, call: Call) -> Any:
        return {"live": True, "ready": self._is_ready()}

    async def ready(self, call: Call) -> Any:
        if not self._is_ready():
            raise UserError("no mesh is reached yet", "discod status says why", code="not-ready", exit=Exit.TRY_AGAIN)
        return {"live": True, "ready": True}

    def _is_ready(self) -> bool:
        net = self.meshes.net
        return bool(net.linked_peers()) or any(info.connected for info in net.signaling().values())

    async def status(self, call: Call) -> Any:
        meshes, runs = [self.meshes.show(mesh) for mesh in self.meshes.ids()], self.runs.current()
        away = [mesh for mesh in meshes if not mesh["signaling"]["connected"]]
        failed = [run for run in runs if run["state"] == "failed"]
        warnings = [unreachable(m["name"], m["signaling"]["url"], m["signaling"]["error"]) for m in away]
        warnings += [{"text": f"run {run['id']} failed: {run['words']}", "try": run["error"]["hint"]} for run in failed]
        engine = "stand-in" if self.engine.name == "stand-in" else f"{self.engine.name} {self.engine.device}"
        return {
            "version": discod.__version__,
            "name": self.meshes.name,
            "peer": short_id(self.identity.peer_id),
            "peer_id": show_id(self.identity.peer_id),
            "pid": os.getpid(),
            "uptime_seconds": time.monotonic() - self.started,
            "engine": engine,
            "state": "degraded" if away or failed else "healthy",
            "warnings": warnings + self.warnings,
            "meshes": meshes,
            "runs": runs,
            "memory_mb": memory_mb(),
        }

    async def shutdown(self, call: Call) -> Any:
        self.stop()
        return {"pid": os.getpid()}

    async def one_operation(self, call: Call) -> Any:
        return msgspec.to_builtins(self.operations.show(call.path["ref"]))

    # -- meshes, invites, peers

    async def all_meshes(self, call: Call) -> Any:
        return [self.meshes.show(mesh) for mesh in self.meshes.ids()]

    async def one_mesh(self, call: Call) -> Any:
        return self.meshes.show(self.meshes.find(call.path["ref"]))

    async def create_mesh(self, call: Call) -> Any:
        mesh = await self.meshes.create(call.body.name, call.body.signaling)
        return self.meshes.show(mesh)

    async def join(self, call: Call) -> Any:
        parse_link(call.body.link)

        async def work(report: Progress) -> Any:
            mesh = await self.meshes.join(call.body.link, report, call.body.wait_seconds)
            self.tasks.scan(mesh)
            self.runs.resume()
            await self._linked_with_those_present(mesh)
            name = self.meshes.mesh_name(mesh)
            peers = [peer for peer in self.peers.all(None) if peer["mesh"] == name]
            return self.meshes.show(mesh) | {"peers": peers}

        return self.operations.start(work)

    async def _linked_with_those_present(self, mesh: bytes) -> None:
        """Wait a little until whoever signaling says is present is linked."""
        with trio.move_on_after(LINKS_SECONDS):
            while not self._is_linked_with_those_present(mesh):  # noqa: ASYNC110 - nothing tells whom the node names
                await trio.sleep(LOOK_SECONDS)

    def _is_linked_with_those_present(self, mesh: bytes) -> bool:
        net, members, me = self.meshes.net, self.meshes.members(mesh), self.identity.peer_id
        info = net.signaling().get(mesh)
        present = (info.present if info else frozenset()) & members.members() - {me}
        return bool(present) and present <= net.linked_peers()

    async def all_invites(self, call: Call) -> Any:
        return self.invites.all(call.query.get("mesh"))

    async def make_invite(self, call: Call) -> Any:
        body = call.body
        return self.invites.make(body.mesh, uses=body.uses, expires_seconds=body.expires_seconds, role=body.role)

    async def revoke_invite(self, call: Call) -> Any:
        return self.invites.revoke(call.path["ref"])

    async def all_peers(self, call: Call) -> Any:
        return self.peers.all(call.query.get("mesh"))

    async def one_peer(self, call: Call) -> Any:
        return self.peers.find(call.path["ref"])

    # -- data, tasks, runs, models

    async def all_datasets(self, call: Call) -> Any:
        return self.sources.all()

    async def all_budgets(self, call: Call) -> Any:
        return await self.budgets.all()

    async def one_budget(self, call: Call) -> Any:
        return await self.budgets.one(call.path["ref"])

    async def raise_budget(self, call: Call) -> Any:
        return await self.budgets.raise_to(call.path["ref"], call.body.to, call.body.reason)

    async def forecast(self, call: Call) -> Any:
        if (alias := call.query.get("data")) is None:
            raise UsageError("which data set?", "add ?data=ALIAS", code="bad-request")
        return await self.budgets.forecast(self._task(call, call.query.get("mesh")).spec, alias)

    def _task(self, call: Call, mesh: str | None) -> OfferedTask:
        return self.tasks.find(call.path["ref"], mesh)

    async def all_tasks(self, call: Call) -> Any:
        meshes = self.meshes.some(call.query.get("mesh"))
        return [self.tasks.show(task, self.runs.mine(task)) for task in self.tasks.all(meshes)]

    async def one_task(self, call: Call) -> Any:
        return self._details(self._task(call, call.query.get("mesh")))

    def _details(self, task: OfferedTask) -> dict[str, Any]:
        return self.tasks.show(task, self.runs.mine(task)) | self.tasks.details(task)

    async def publish(self, call: Call) -> Any:
        return self._details(self.tasks.publish(call.body.toml, call.body.mesh))

    async def accept(self, call: Call) -> Any:
        since = self.events.last_id
        run = await self.runs.accept(self._task(call, call.body.mesh), call.body.data)
        return self.runs.find(str(run.number)) | {"since": since}

    async def all_runs(self, call: Call) -> Any:
        return self.runs.all()

    async def one_run(self, call: Call) -> Any:
        return self.runs.find(call.path["ref"])

    async def all_models(self, call: Call) -> Any:
        return await trio.to_thread.run_sync(self.runs.models)
