"""A signaling node that also writes down every byte it relays: tapped_node.py FILE serve ..."""

from __future__ import annotations

import sys
from pathlib import Path

from signaling import server
from signaling.__main__ import main
from signaling.connection import Connection

if __name__ == "__main__":
    tape = Path(sys.argv.pop(1)).open("ab", buffering=0)  # noqa: SIM115 - it lives as long as the node
    pass_on = server.Server._pass_on

    async def tapped(self: server.Server, guest: int, connection: Connection, other: int, data: bytes) -> bool:
        tape.write(data)
        return await pass_on(self, guest, connection, other, data)

    server.Server._pass_on = tapped  # type: ignore[method-assign]  # this is the tap
    main()
