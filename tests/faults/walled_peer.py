"""A daemon that cannot dial other peers as long as a file exists: walled_peer.py FILE PYTHON -m discod daemon ..."""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from discod.__main__ import main
from discod.errors import Broken
from discod.p2p.dial import Tcp

if __name__ == "__main__":
    wall = Path(sys.argv[1])
    sys.argv = ["discod", *sys.argv[5:]]
    dial = Tcp.dial

    async def walled(self: Tcp, address: str) -> trio.abc.Stream:
        if wall.exists():  # noqa: ASYNC240 - one look at a local file
            raise Broken(None, "connection refused")
        return await dial(self, address)

    Tcp.dial = walled  # type: ignore[method-assign]  # this is the wall
    main()
