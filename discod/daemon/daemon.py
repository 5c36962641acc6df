"""The daemon's process: what is started, in which order, and how it ends.

    lock -> store, identity -> links -> control socket -> runs of the last time -> ... -> SIGTERM, SIGINT or shutdown
    runs end (their workers with them) -> Bye to all peers -> streams end -> the socket goes, last

Everything but the home's lock and the store lives in one trio nursery. A LocalError ends the daemon: its state is on
disk, and whoever started it may start it again.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing
from functools import partial
from socket import socket as Socket  # noqa: N812  (the class, told apart from the module)
from typing import Any

import structlog
import trio

import discod
from discod.config import Config, Paths
from discod.control.app import make_app
from discod.control.events import EventLog
from discod.control.serve import bind_socket, serve_control
from discod.daemon.budgets import Budgets
from discod.daemon.desk import Desk
from discod.daemon.exchanging import MakeExchange
from discod.daemon.invites import Invites
from discod.daemon.listening import Listener
from discod.daemon.meshes import Meshes
from discod.daemon.operations import Operations
from discod.daemon.peers import Peers
from discod.daemon.routing import Router
from discod.daemon.runs import Runs
from discod.daemon.sources import Sources
from discod.daemon.surroundings import Engine, Surroundings
from discod.daemon.tasks import Tasks
from discod.identity import Identity
from discod.p2p.mesh import Mesh, Settings
from discod.store import Store, home_lock, open_store

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
FLUSH_SECONDS = 1.0  # for streams to deliver their last events
QUIET_EVENTS = frozenset(
    {"run.training", "run.exchanging", "op.progress", "round.opened", "round.started", "round.shared"}
)  # not worth a line in the log


class Daemon:
    """One home's daemon; `run` it once."""

    def __init__(
        self, paths: Paths, config: Config, identity: Identity, store: Store, exchange: MakeExchange, engine: Engine
    ) -> None:
        self._paths, self._config, self._identity, self._store = paths, config, identity, store
        self._make_exchange, self._engine = exchange, engine
        self.events = LoggedEvents()
        self._stopping, self._leaving = trio.Event(), trio.Event()
        self._links_ended, self._runs_ended, self._doors_ended = trio.Event(), trio.Event(), trio.Event()
        network = config.network
        self.name = config.name or os.uname().nodename.partition(".")[0]
        self.net = Mesh(identity, self.name, Settings(network.listen, network.relay))

    def stop(self) -> None:
        """End soon; `run` returns when everything is cleaned up."""
        self._stopping.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until stopped. Started when the control socket answers.

        Raises: UserError when the links or the socket cannot be made, LocalError for a bug. Cancellation ends workers
        and says Bye, as `stop` does.
        """
        async with trio.open_nursery() as outer:
            links, runs, doors = trio.CancelScope(), trio.CancelScope(), trio.CancelScope()
            try:
                with bind_socket(self._paths.socket) as listener:
                    await self._open(outer, links, runs, doors, listener)
                    self.events.add("daemon.started", pid=os.getpid(), version=discod.__version__)
                    task_status.started()
                    await self._stopping.wait()
                    self.events.add("daemon.stopping", pid=os.getpid(), version=discod.__version__)
                    await self._close(links, runs, doors)
                    outer.cancel_scope.cancel()
            finally:
                self._paths.socket.unlink(missing_ok=True)
                self.events.close()

    async def _open(
        self,
        outer: trio.Nursery,
        links: trio.CancelScope,
        runs: trio.CancelScope,
        doors: trio.CancelScope,
        listener: Socket,
    ) -> None:
        router = Router(self._identity.peer_id, self.net.send)
        self.net.expect = router.expect
        meshes = Meshes(self.net, self._store, self._identity, self.name, self.events)
        meshes.load()
        sources = Sources(self._store, self._config, self._paths)
        await outer.start(self._in_scope, links, self._links_ended, self.net.run)
        nursery: trio.Nursery = await outer.start(self._run_nursery, runs)
        around = Surroundings(
            meshes,
            self._store,
            router,
            self._identity,
            self.events,
            self._make_exchange,
            self._engine,
            self._paths.cache,
            self._config.policy.min_peers,
        )
        tasks = Tasks(meshes, self._store, router, self._identity, self.events)
        self.runs = all_runs = Runs(around, tasks, sources, nursery)
        peers = Peers(meshes, self._identity.peer_id, partial(tasks.of_peer, round_of=all_runs.round_of))
        warnings: list[dict[str, str]] = []
        ear = Listener(meshes, router, tasks, all_runs, peers, self.events, warnings)
        for mesh in meshes.ids():
            ear.records(mesh)
        outer.start_soon(ear.listen)
        desk = Desk(
            self._identity,
            meshes,
            Invites(meshes, self.events),
            peers,
            tasks,
            all_runs,
            sources,
            Budgets(self._store, sources, self.events),
            Operations(nursery, self.events),
            self.events,
            self._engine,
            warnings,
            time.monotonic(),
            self.stop,
        )
        app = make_app(desk.table(), self.events)
        await outer.start(self._serve, doors, app, listener)

    async def _in_scope(
        self,
        scope: trio.CancelScope,
        ended: trio.Event,
        run: Any,
        *,
        task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        try:
            with scope:
                await run(task_status=task_status)
        finally:
            ended.set()

    async def _run_nursery(self, scope: trio.CancelScope, *, task_status: trio.TaskStatus[trio.Nursery]) -> None:
        async def hold(*, task_status: trio.TaskStatus[trio.Nursery]) -> None:
            async with trio.open_nursery() as nursery:
                task_status.started(nursery)
                await trio.sleep_forever()

        await self._in_scope(scope, self._runs_ended, hold, task_status=task_status)

    async def _serve(
        self, scope: trio.CancelScope, app: Any, listener: Socket, *, task_status: trio.TaskStatus[None]
    ) -> None:
        async def serve(*, task_status: trio.TaskStatus[None]) -> None:
            us = frozenset({0, os.geteuid()})
            await serve_control(app, listener, us, leaving=self._leaving, task_status=task_status)

        await self._in_scope(scope, self._doors_ended, serve, task_status=task_status)

    async def _close(self, links: trio.CancelScope, runs: trio.CancelScope, doors: trio.CancelScope) -> None:
        """Workers first, since they are killed; then links, which say Bye; then what listens to us."""
        runs.cancel()
        await self._runs_ended.wait()
        links.cancel()
        await self._links_ended.wait()
        self.events.close()
        self._leaving.set()
        with trio.move_on_after(FLUSH_SECONDS):
            await self._doors_ended.wait()
        doors.cancel()


class LoggedEvents(EventLog):
    """Events, of which the log keeps a line."""

    def add(self, type_: str, /, **fields: Any) -> int:
        if type_ not in QUIET_EVENTS:
            structlog.get_logger().info(type_, **fields)
        return super().add(type_, **fields)


async def _obey_signals(daemon: Daemon) -> None:
    with trio.open_signal_receiver(*SIGNALS) as received:
        async for number in received:
            if number != signal.SIGHUP:
                daemon.stop()


async def serve_until_signal(daemon: Daemon) -> None:
    """Run the daemon until SIGTERM, SIGINT or its own shutdown; SIGHUP changes nothing."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_obey_signals, daemon)
        await daemon.run()
        nursery.cancel_scope.cancel()


def run_home(paths: Paths, config: Config, exchange: MakeExchange, engine: Engine) -> None:
    """Hold the home's lock and serve it.

    Raises: AlreadyRunning, NoIdentity, PermissionProblem, NewerState, BadConfig.
    """
    paths.create()
    identity = Identity.load(paths.identity)
    with home_lock(paths.state), closing(open_store(paths.state, locked=True)) as store:
        trio.run(serve_until_signal, Daemon(paths, config, identity, store, exchange, engine))
