"""A daemon all of whose connections pass through a Wire (_wire.py):  _faulty_daemon.py WIRE-PORT daemon --home HOME

Its name is its home's. Nothing else about it differs from `python -m discod daemon`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import trio

from benchmarks._wire import LISTENS
from discod.__main__ import main
from discod.p2p.dial import Accept, Tcp

_open, _listen = trio.open_tcp_stream, Tcp.listen


def bend(name: str, wire: int) -> None:
    """From now on every TCP connection of this process goes by the wire, and the wire knows where it listens."""

    async def by_wire(host: str, port: int, **_: Any) -> trio.SocketStream:
        stream = await _open("127.0.0.1", wire)
        try:
            await stream.send_all(f"{name} {host}:{port}\n".encode())
            if await stream.receive_some(1) != b"+":
                raise ConnectionRefusedError(111, "connection refused")
        except trio.BrokenResourceError:
            await trio.aclose_forcefully(stream)
            raise ConnectionResetError(104, "connection reset") from None
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream

    async def listen(self: Tcp, address: str, nursery: trio.Nursery, accept: Accept) -> int:
        port = await _listen(self, address, nursery, accept)
        await trio.aclose_forcefully(await by_wire(LISTENS, port))
        return port

    trio.open_tcp_stream = by_wire  # type: ignore[assignment]  # this is the bend
    Tcp.listen = listen  # type: ignore[method-assign]


if __name__ == "__main__":
    bend(Path(sys.argv[-1]).name, int(sys.argv.pop(1)))
    main()
