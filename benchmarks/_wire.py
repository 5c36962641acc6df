"""The wire between the daemons of bench soak: every connection passes through here, and is cut or slowed by pair.

    daemon i  --"i 127.0.0.1:PORT\\n"-->  Wire  ----->  whoever listens there     (faulty_daemon.py makes it say so)
              <--------- "+" ----------

What flows is not looked at: TLS stays between the ends. A dead way keeps what is sent until it is whole again, as TCP
does; with `resets` its connections end and new ones are refused. A slow one delivers later, so many bytes a second.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

LISTENS = "listens"  # NAME listens PORT: the daemon says where it does
NODE = "node"
CHUNK_BYTES = 16 << 10
HELD_CHUNKS = 64  # on their way through one connection, as many as sockets would hold
HEADER_BYTES = 200


@dataclass(frozen=True, slots=True)
class Way:
    """How bytes pass from one peer to another."""

    dead: bool = False
    resets: bool = False
    delay: float = 0.0  # seconds
    rate: float = math.inf  # bytes a second


WHOLE = Way()


@dataclass(slots=True)
class State:
    """Only the wire's own thread looks at it."""

    ways: dict[frozenset[str], Way] = field(default_factory=dict)
    ports: dict[int, str] = field(default_factory=dict)
    changed: trio.Event = field(default_factory=trio.Event)


class Wire:
    """Use as a context; `port` is where daemons connect to."""

    def __init__(self) -> None:
        self.port = 0
        self.bytes = 0  # passed on
        self._state = State()
        self._up = threading.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope: trio.CancelScope | None = None
        self._thread = threading.Thread(target=trio.run, args=(self._run,), daemon=True)

    def __enter__(self) -> Wire:
        self._thread.start()
        self._up.wait()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._scope is not None
        self._do(self._scope.cancel)
        self._thread.join()

    def name(self, port: int, who: str) -> None:
        """Whoever listens at this port is `who`."""
        self._do(partial(self._state.ports.__setitem__, port, who))

    def set(self, pairs: Iterable[tuple[str, str]], way: Way) -> None:
        """From now on this is how bytes pass between these."""
        ways = {frozenset(pair): way for pair in pairs}

        def change() -> None:
            state = self._state
            state.ways |= ways
            state.changed.set()
            state.changed = trio.Event()

        self._do(change)

    def _do(self, work: Callable[[], Any]) -> None:
        trio.from_thread.run_sync(work, trio_token=self._token)

    async def _run(self) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port, self._token = listeners[0].socket.getsockname()[1], trio.lowlevel.current_trio_token()
        with trio.CancelScope() as self._scope:
            self._up.set()
            await trio.serve_listeners(self._serve, listeners)

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            who, where = (await _line(stream)).split()
            if where.startswith(LISTENS):
                self._state.ports[int(where.partition(":")[2])] = who
                return await stream.send_all(b"+")
            host, _, port = where.rpartition(":")
            pair = frozenset((who, self._state.ports.get(int(port), "nobody")))
            async with await self._connect(pair, host, int(port)) as other:
                await stream.send_all(b"+")
                await self._splice(pair, stream, other)
        except (OSError, ValueError, trio.BrokenResourceError, trio.ClosedResourceError):
            return None  # it hears of it by the end of its connection
        finally:
            await trio.aclose_forcefully(stream)

    async def _connect(self, pair: frozenset[str], host: str, port: int) -> trio.SocketStream:
        await self._alive(pair)
        return await trio.open_tcp_stream(host, port)

    def _way(self, pair: frozenset[str]) -> Way:
        return self._state.ways.get(pair, WHOLE)

    async def _alive(self, pair: frozenset[str]) -> Way:
        """Wait until the way is not dead.  Raises: trio.BrokenResourceError when it resets."""
        while (way := self._way(pair)).dead:
            if way.resets:
                raise trio.BrokenResourceError
            await self._state.changed.wait()
        return way

    async def _splice(self, pair: frozenset[str], one: trio.SocketStream, other: trio.SocketStream) -> None:
        """Until either end is closed, or the way is cut."""
        async with trio.open_nursery() as nursery:

            async def until_cut() -> None:
                while not (self._way(pair).dead and self._way(pair).resets):
                    await self._state.changed.wait()
                nursery.cancel_scope.cancel()

            async def forward(source: trio.SocketStream, sink: trio.SocketStream) -> None:
                await self._forward(pair, source, sink)
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_cut)
            nursery.start_soon(forward, one, other)
            nursery.start_soon(forward, other, one)

    async def _forward(self, pair: frozenset[str], source: trio.SocketStream, sink: trio.SocketStream) -> None:
        """Pass everything on, each chunk when it is due; returns at the end of either."""
        send, receive = trio.open_memory_channel[tuple[float, bytes]](HELD_CHUNKS)

        async def read() -> None:
            free = -math.inf  # when the line has room for the next chunk
            async with send:
                while data := await source.receive_some(CHUNK_BYTES):
                    way, now = self._way(pair), trio.current_time()
                    free = max(free, now) + len(data) / way.rate
                    await send.send((free + way.delay, data))

        async with trio.open_nursery() as nursery:
            try:
                nursery.start_soon(_ended, read)
                async for due, data in receive:
                    await trio.sleep_until(due)
                    await self._alive(pair)
                    await sink.send_all(data)
                    self.bytes += len(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                nursery.cancel_scope.cancel()


async def _ended(read: Callable[[], Any]) -> None:
    try:
        await read()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return  # it was reset: the same as its end


async def _line(stream: trio.SocketStream) -> str:
    line = b""
    while not line.endswith(b"\n"):
        if len(line) > HEADER_BYTES or not (byte := await stream.receive_some(1)):
            raise ValueError("no header")
        line += byte
    return line.decode()
