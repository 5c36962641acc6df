"""A node as it listens: its key, its ports, what a running one takes anew, and how it goes down.

draining   accepts nobody new -> says going-away to everybody (they call another node, or this one later, each after a
           wait of its own) -> a visit ends its push or pull, a relay goes on until it was quiet for QUIET_SECONDS
           -> whatever is left at the deadline is cut
"""

from __future__ import annotations

import os
import ssl
from ipaddress import ip_address
from pathlib import Path

import trio

from discod.errors import UserError
from discod.identity import Identity
from signaling.certificates import own_context
from signaling.depot import Depot
from signaling.lobby import Lobby
from signaling.server import Server

node_context = own_context


class Node:
    """A server behind listeners. `context` and `proxies` (addresses whose X-Forwarded-For counts) may be replaced."""

    def __init__(
        self,
        server: Server,
        listeners: list[trio.SocketListener],
        context: ssl.SSLContext | None,
        proxies: frozenset[str] = frozenset(),
    ) -> None:
        self.server, self.context, self.proxies = server, context, proxies
        self._listeners = listeners
        self._accepting = trio.CancelScope()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.server.watch)
            nursery.start_soon(self._accept_all, nursery)
            task_status.started()

    async def drain(self, seconds: float) -> int:
        """Go down in `seconds` at most; how many connections had to be cut. `run` is cancelled by the caller."""
        self._accepting.cancel()
        return await self.server.drain(seconds)

    async def _accept_all(self, nursery: trio.Nursery) -> None:
        with self._accepting:
            await trio.serve_listeners(self._accept, self._listeners, handler_nursery=nursery)
        for listener in self._listeners:
            await listener.aclose()

    async def _accept(self, stream: trio.SocketStream) -> None:
        try:
            address = str(stream.socket.getpeername()[0])
        except OSError:
            return await trio.aclose_forcefully(stream)  # it has left already
        wrapped: trio.abc.Stream = stream
        if self.context is not None:
            wrapped = trio.SSLStream(stream, self.context, server_side=True, https_compatible=True)
        return await self.server.serve(wrapped, address, is_proxy=_plain(address) in self.proxies)


def _plain(address: str) -> str:
    """IPv4 that came through an IPv6 socket is IPv4."""
    number = ip_address(address.partition("%")[0])
    return str(getattr(number, "ipv4_mapped", None) or number)


async def run_node(
    lobby: Lobby,
    listeners: list[trio.SocketListener],
    context: ssl.SSLContext | None,
    depot: Depot | None = None,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled."""
    await Node(Server(lobby, depot), listeners, context).run(task_status=task_status)


def node_key(directory: Path) -> Identity:
    """The node's key in its state directory, made at the first start (0600).  Raises: UserError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / "signaling.key"
    return Identity.load(path) if path.exists() else Identity.create(path)


async def open_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Raises: UserError when the address is taken or not ours."""
    try:
        return await trio.open_tcp_listeners(port, host=host or None)
    except OSError as error:
        raise _cannot_listen(host, port, error) from None


def _cannot_listen(host: str, port: int, error: OSError) -> UserError:
    where = f"{host or '*'}:{port}"
    if error.errno in (98, 48) or (isinstance(error, PermissionError) and port >= 1024):
        hint = "stop what uses it, or choose another: discod signaling serve --listen :0 takes a free one"
        return UserError(f"{where} is in use by another program", hint, code="port-taken")
    why = os.strerror(error.errno) if isinstance(error.errno, int) and error.errno > 0 else str(error)
    return UserError(f"cannot listen on {where}: {why}", "give an address of this machine", code="cannot-listen")
