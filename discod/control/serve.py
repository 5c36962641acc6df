"""The control application on a unix socket: mode 0600, and every caller's uid is checked besides.

The socket appears under its name only when it accepts; what a dead daemon left there is replaced (the home's lock says
that it is dead). HTTP itself (keep-alive, limits, timeouts) is anycorn's job, one connection at a time.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import trio
from anycorn.config import Config
from anycorn.tcp_server import tcp_server_handler
from anycorn.typing import ConnectionState
from anycorn.utils import wrap_app
from anycorn.worker_context import WorkerContext
from anyio.abc import SocketStream, UNIXSocketStream

from discod.errors import PermissionProblem

if TYPE_CHECKING:
    from anycorn.typing import Framework
    from starlette.applications import Starlette

MAX_CONNECTIONS = 64
MAX_HEADER_BYTES = 16 << 10
LISTEN_BACKLOG = 32
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


def bind_socket(path: Path) -> socket.socket:
    """A listening unix socket at `path`, mode 0600.

    Raises:
        PermissionProblem: the socket cannot be made there.
    """
    temporary = path.with_name(f"{path.name[:8]}.{os.getpid()}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        temporary.unlink(missing_ok=True)
        listener.bind(str(temporary))
        temporary.chmod(0o600)
        listener.listen(LISTEN_BACKLOG)
        temporary.rename(path)
    except OSError as error:
        listener.close()
        raise PermissionProblem(
            f"cannot make the control socket {path}: {error.strerror or error}",
            "is the directory yours, and the path at most 100 characters long?",
        ) from None
    return listener


def caller_uid(connection: socket.socket | trio.socket.SocketType) -> int:
    """The user on the other end, as the kernel says."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[1])


async def serve_control(
    app: Starlette,
    listener: socket.socket,
    allowed_uids: frozenset[int],
    *,
    leaving: trio.Event | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer callers until cancelled, which closes the listener and every connection.

    Once `leaving` is set nobody new is let in, and it ends with the last connection.
    """
    handle = tcp_server_handler(
        wrap_app(cast("Framework", app), MAX_HEADER_BYTES, "asgi"),
        _server_config(),
        WorkerContext(None),
        ConnectionState({}),
    )
    slots = trio.CapacityLimiter(MAX_CONNECTIONS)
    with listener:
        listener.setblocking(False)
        accepting = trio.socket.from_stdlib_socket(listener)
        async with trio.open_nursery() as nursery:
            task_status.started()
            if leaving is not None:
                nursery.start_soon(_close_when, leaving, accepting)
            while (connection := await _next(accepting)) is not None:
                if caller_uid(connection) not in allowed_uids or slots.available_tokens == 0:
                    connection.close()
                    continue
                nursery.start_soon(_serve_one, handle, connection, slots)


async def _next(accepting: trio.socket.SocketType) -> trio.socket.SocketType | None:
    """The next connection; None once the listener is closed. No deadline: callers come when they come."""
    try:
        connection, _ = await accepting.accept()
    except (OSError, trio.ClosedResourceError):
        if accepting.fileno() == -1:
            return None
        raise
    return connection


async def _close_when(leaving: trio.Event, accepting: trio.socket.SocketType) -> None:
    await leaving.wait()
    accepting.close()


async def _serve_one(handle: Any, connection: trio.socket.SocketType, slots: trio.CapacityLimiter) -> None:
    async with slots:
        plain = socket.socket(fileno=connection.detach())
        stream: SocketStream = await UNIXSocketStream.from_socket(plain)
        await handle(stream)


def _server_config() -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger("discod.control")
    config.h11_max_incomplete_size = MAX_HEADER_BYTES
    config.read_timeout = None  # a limit would also end a stream of events whose reader has nothing more to say
    config.include_server_header = False
    return config
