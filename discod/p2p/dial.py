"""Ways into and out of this machine: dialling, listening, calling a signaling node; and how long to wait in between.

Network is what the mesh needs of the outside world; Tcp is the real one, tests bring one made of memory streams.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

import trio

from discod.errors import BadConfig, Broken
from discod.p2p.addresses import split_address
from discod.p2p.link import Link
from discod.p2p.websocket import Conversation, SignalingAt, call

DIAL_SECONDS = 4.0  # all addresses of one peer, greeting included; then the relay is asked for
DIAL_STAGGER_SECONDS = 0.25
WILDCARDS = ("", "::", "0.0.0.0")  # noqa: S104  (names what a person wrote)

Accept = Callable[[trio.abc.Stream], Awaitable[None]]


class Network(Protocol):
    """The outside world."""

    async def dial(self, address: str) -> trio.abc.Stream:
        """Raises: Broken."""

    async def listen(self, address: str, nursery: trio.Nursery, accept: Accept) -> int:
        """Listen at "HOST:PORT"; each stream is accepted in a task of `nursery`. Returns the port.

        Raises: OSError with EADDRINUSE when it is taken, BadConfig when it cannot be ours.
        """

    async def call(self, at: SignalingAt, nursery: trio.Nursery) -> Conversation:
        """Raises: Broken."""


class Tcp:
    """The real one."""

    async def dial(self, address: str) -> trio.abc.Stream:
        host, port = split_address(address)
        try:
            return _tuned(await trio.open_tcp_stream(host, port))
        except OSError as error:
            raise Broken(None, _words(error)) from None

    async def listen(self, address: str, nursery: trio.Nursery, accept: Accept) -> int:
        host, port = split_address(address)
        listeners = await _listeners(host, port)

        async def handle(stream: trio.SocketStream) -> None:
            await accept(_tuned(stream))

        nursery.start_soon(partial(trio.serve_listeners, handle, listeners))
        bound: int = listeners[0].socket.getsockname()[1]
        return bound

    async def call(self, at: SignalingAt, nursery: trio.Nursery) -> Conversation:
        return await call(at, nursery)


async def _listeners(host: str, port: int) -> list[trio.SocketListener]:
    """For a wildcard both families on one port; IPv6 is left out where there is none."""
    try:
        if host not in WILDCARDS:
            return await trio.open_tcp_listeners(port, host=host)
        first = await trio.open_tcp_listeners(port, host="0.0.0.0")  # noqa: S104  (that is what listen means)
        try:
            return first + await trio.open_tcp_listeners(first[0].socket.getsockname()[1], host="::")
        except OSError:
            return first
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(errno.EADDRINUSE, "in use") from None
        hint = 'network.listen = "[::]:7340" listens everywhere, "off" nowhere'
        raise BadConfig(f"cannot listen on {host}:{port}: {_words(error)}", hint, code="cannot-listen") from None


def _tuned(stream: trio.SocketStream) -> trio.SocketStream:
    """trio has set TCP_NODELAY; its low-water mark of 16 KiB suits small messages, we send 256 KiB at a time."""
    with contextlib.suppress(OSError, AttributeError):  # not every system has it; the other side may be gone already
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 128 << 10)
    return stream


def _words(error: OSError) -> str:
    if error.__cause__ is not None and isinstance(error.__cause__, OSError):
        error = error.__cause__
    if isinstance(error.__cause__, BaseExceptionGroup):  # trio tried several addresses of a name
        first = error.__cause__.exceptions[0]
        error = first if isinstance(first, OSError) else error
    known = isinstance(error.errno, int) and error.errno > 0
    return os.strerror(error.errno).lower() if known and error.errno is not None else str(error)


async def first_greeted(addresses: list[str], attempt: Callable[[str], Awaitable[Link]]) -> Link | str:
    """Dial all addresses, a quarter of a second apart; the first greeted link, or why there is none, in words.

    Links that are greeted at the same moment as the first are closed.
    """
    links: list[Link] = []
    why: dict[str, str] = {}

    async def one(number: int, address: str, scope: trio.CancelScope) -> None:
        await trio.sleep(DIAL_STAGGER_SECONDS * number)
        try:
            links.append(await attempt(address))
            scope.cancel()
        except Broken as error:
            why[address] = error.why

    with trio.move_on_after(DIAL_SECONDS):
        async with trio.open_nursery() as nursery:
            for number, address in enumerate(addresses):
                nursery.start_soon(one, number, address, nursery.cancel_scope)
    for link in links[1:]:
        await link.close("another path was quicker")
    if links:
        return links[0]
    return "; ".join(f"{address}: {why.get(address, 'does not answer')}" for address in addresses)


class BackOff:
    """Waits that double from `first` to `most` seconds, each spread by half, so that many peers do not come at once."""

    def __init__(self, jitter: random.Random, first: float, most: float) -> None:
        self._jitter, self._first, self._most = jitter, first, most
        self._next = first

    def next(self) -> float:
        """Seconds to wait now."""
        wait, self._next = self._next, min(2 * self._next, self._most)
        return wait * self._jitter.uniform(0.5, 1.5)

    def reset(self) -> None:
        """It worked."""
        self._next = self._first
