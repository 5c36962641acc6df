"""The life of a node as a process: SIGHUP reads limits and certificates anew, SIGTERM drains, a second one ends it.

What is read anew is looked at as a whole before any of it is used: a broken edit changes nothing, and the log says why.
"""

from __future__ import annotations

import gc
import secrets
import signal
import ssl
import time
import tomllib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple

import structlog
import trio

from discod.errors import BadConfig, UsageError, UserError
from discod.identity import Identity
from signaling.certificates import Pair, own_context, pair_context
from signaling.depot import Depot
from signaling.limits import DEFAULTS, Limits, set_limits
from signaling.lobby import Lobby
from signaling.node import Node, node_key, open_listeners
from signaling.server import Server

LOOPBACK = frozenset(("127.0.0.1", "::1"))
TRY_LIMITS = 'one limit in a line, such as: joins_per_minute = 60; the names are in "discod signaling serve --help"'
log = structlog.get_logger()


class Plan(NamedTuple):
    """What the command line says."""

    host: str
    port: int
    home: Path
    pair: Pair | None = None  # certificate files; else the node's own key
    plain: bool = False
    proxies: frozenset[str] = frozenset()  # whose X-Forwarded-For counts
    relay: bool = True
    federated: bool = False
    limits_file: Path | None = None  # else limits.toml in `home`, if there is one
    changes: tuple[str, ...] = ()  # of limits; before the file's
    drain_seconds: float = 30.0

    def limits(self) -> Limits:
        """The limits in force.  Raises: BadConfig, UsageError."""
        path = self.limits_file or self.home / "limits.toml"
        found = read_limits(path) if self.limits_file or path.exists() else DEFAULTS
        return set_limits(found, self.changes)

    def context(self, identity: Identity) -> ssl.SSLContext | None:
        """TLS as it should be.  Raises: UserError."""
        if self.plain:
            return None
        return own_context(identity, self.home) if self.pair is None else pair_context(self.pair)


def read_limits(path: Path) -> Limits:
    """Limits from a TOML file.  Raises: BadConfig."""
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise BadConfig(f"cannot read {path}: {error.strerror}", "give --limits a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadConfig(f"{path} is no TOML: {error}", TRY_LIMITS) from None
    try:
        return set_limits(DEFAULTS, [f"{name}={value}" for name, value in values.items()])
    except UsageError as error:
        raise BadConfig(f"{path}: {error.message}", TRY_LIMITS) from None


async def run(plan: Plan, announce: Callable[[Identity, tuple[str, int], Limits], None]) -> None:
    """Run the node until it is told to stop; `announce` is called once it listens.  Raises: UserError."""
    limits = plan.limits()
    identity = node_key(plan.home)
    context = plan.context(identity)
    listeners = await open_listeners(plan.host, plan.port)
    lobby = Lobby(identity, lambda: secrets.token_bytes(16), relay=plan.relay, settable=limits)
    depot = Depot(identity, plan.home, time.time, lobby.published) if plan.federated else None
    node = Node(Server(lobby, depot), listeners, context, plan.proxies)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run)
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
                gc.freeze()  # what is here by now stays, and is not to be searched while a thousand guests wait
                announce(identity, listeners[0].socket.getsockname(), limits)
                log.info("node.started", relay=plan.relay, federated=plan.federated)
                await _until_told(signals, node, plan, identity)
                await _drain(signals, node, plan.drain_seconds)
            nursery.cancel_scope.cancel()
    finally:
        if depot is not None:
            depot.close()
    log.info("node.stopped")


async def _until_told(signals: AsyncIterator[int], node: Node, plan: Plan, identity: Identity) -> None:
    async for number in signals:
        if number != signal.SIGHUP:
            return
        reload(node, plan, identity)


def reload(node: Node, plan: Plan, identity: Identity) -> None:
    """Take limits and certificates as they are now, or go on with those of before. Connections stay."""
    try:
        limits, context = plan.limits(), plan.context(identity)
    except UserError as error:
        node.server.tally.reloads["refused"] += 1
        log.warning("reload.refused", why=error.message, hint=error.hint)
        return
    node.server.set_limits(limits)
    node.context = context
    node.server.tally.reloads["done"] += 1
    log.info("reload.done")


async def _drain(signals: AsyncIterator[int], node: Node, seconds: float) -> None:
    log.info("drain.started", connections=node.server.open_connections, seconds=seconds)

    async def drain() -> None:
        log.info("drain.ended", cut=await node.drain(seconds))
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain)
        async for number in signals:
            if number != signal.SIGHUP:
                log.info("drain.cut_short", connections=node.server.open_connections)
                break
        nursery.cancel_scope.cancel()
