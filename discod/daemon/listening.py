"""What the links tell, taken one by one: to the runs, into the store, and out as events."""

from __future__ import annotations

import time
from typing import Any

import structlog

from discod.control.events import EventLog
from discod.daemon.meshes import Meshes
from discod.daemon.peers import Peers
from discod.daemon.routing import Router, RunEvent
from discod.daemon.runs import Runs
from discod.daemon.tasks import Tasks
from discod.errors import Broken, PeerError, UserError
from discod.identity import short_id
from discod.p2p.mesh import (
    BulkArrived,
    LinkDown,
    LinkUp,
    PathChanged,
    Received,
    RecordsChanged,
    SignalingDown,
    SignalingUp,
    Warned,
)
from discod.wire.links import Post, Refusal
from discod.wire.rounds import NO_RID


class Listener:
    """The one reader of the mesh's events."""

    def __init__(
        self,
        meshes: Meshes,
        router: Router,
        tasks: Tasks,
        runs: Runs,
        peers: Peers,
        events: EventLog,
        warnings: list[dict[str, str]],
    ) -> None:
        self._meshes, self._router, self._tasks, self._runs = meshes, router, tasks, runs
        self._peers, self._events, self._warnings = peers, events, warnings
        self._members: dict[bytes, frozenset[bytes]] = {}

    async def listen(self) -> None:
        """Handle events for ever."""
        while True:
            self._take(await self._meshes.net.events.receive())

    def _take(self, event: Any) -> None:
        match event:
            case LinkUp() | LinkDown():
                self._link(event)
                self._route(event.peer, event)
            case Received() | BulkArrived():
                self._route(event.peer, event)
            case RecordsChanged(mesh):
                self.records(mesh)
            case PathChanged(peer, path):
                self._events.add("peer.path", **self._who(peer), path=path)
            case SignalingUp(mesh, url):
                self._signaling("signaling.connected", mesh, url, None)
            case SignalingDown(mesh, url, why):
                self._signaling("signaling.lost", mesh, url, why)
            case Warned(text, hint):
                self._warn(text, hint)

    def _link(self, event: LinkUp | LinkDown) -> None:
        self._peers.last_seen[event.peer] = time.time()
        if isinstance(event, LinkUp):
            self._events.add("peer.connected", **self._who(event.peer), path=event.path)
        else:
            self._events.add("peer.disconnected", **self._who(event.peer), why=event.why)

    def _signaling(self, type_: str, mesh: bytes, url: str, error: str | None) -> None:
        if mesh in self._meshes.ids():
            self._events.add(type_, mesh=self._meshes.mesh_name(mesh), url=url, error=error)

    def _route(self, peer: bytes, event: RunEvent) -> None:
        """Hand it to its run; whoever broke a rule is told, or its link ends."""
        try:
            if self._router.route(event):
                self._accepted(peer)
        except PeerError as error:
            self._answer(peer, event, error)

    def _answer(self, peer: bytes, event: RunEvent, error: PeerError) -> None:
        """A message that only passed through says nothing about whoever passed it on, unless it is no message."""
        structlog.get_logger().info("message.refused", peer=short_id(peer), why=error.why)
        if isinstance(error, Broken) and error.peer in (None, peer):
            self._meshes.net.drop(peer, error.why)
        elif isinstance(event, Received) and isinstance(event.message, Post):
            self._meshes.net.send(peer, Refusal(NO_RID, "post", error.why))

    def _accepted(self, peer: bytes) -> None:
        for task in self._tasks.newly_heard(peer):
            who = self._meshes.members(task.mesh).name(peer)
            mesh = self._meshes.mesh_name(task.mesh)
            self._events.add("task.accepted", mesh=mesh, task=task.spec.name, peer=who)

    def records(self, mesh: bytes) -> None:
        """The records of a mesh changed, or are looked at for the first time."""
        if mesh not in self._meshes.ids():
            return
        self._keep(mesh)
        members = self._meshes.members(mesh)
        known = self._members.get(mesh)
        self._members[mesh] = members.members()
        for peer in sorted(members.members() - known) if known is not None else ():
            self._events.add("peer.joined", mesh=self._meshes.mesh_name(mesh), **self._who(peer))
        self._tasks.scan(mesh)
        self._runs.resume()
        self._runs.heard(mesh)

    def _keep(self, mesh: bytes) -> None:
        """What a full disk does not take is known all the same, and kept with the next change."""
        try:
            self._meshes.changed(mesh)
        except UserError as error:
            self._warn(error.message, error.hint)

    def _warn(self, text: str, hint: str) -> None:
        warning = {"text": text, "try": hint}
        if warning not in self._warnings:
            self._warnings.append(warning)
        structlog.get_logger().warning("links.warned", text=text)

    def _who(self, peer: bytes) -> dict[str, str]:
        for mesh in self._meshes.ids():
            if self._meshes.members(mesh).public_key(peer) is not None:
                return {"peer": self._meshes.members(mesh).name(peer), "short": short_id(peer)}
        return {"peer": short_id(peer), "short": short_id(peer)}
