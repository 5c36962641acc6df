"""Two links to one peer: whoever decides says Use on one of them, also when both come up at the same moment."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from discod.identity import Members
from discod.p2p.events import LinkDown, PathChanged, Received
from discod.wire.links import Post
from discod.wire.rounds import Signed
from tests.p2p.pairs import identity
from tests.p2p.village import AT, ROOT, Daemon, Village, acquainted

PEERS = {"anna": identity(1), "bert": identity(2), "carl": identity(3)}


@pytest.mark.parametrize("attempt", range(8))  # trio picks the order of what happens at the same moment
async def test_peers_that_dial_each_other_at_the_same_moment_keep_one_link(
    autojump_clock: MockClock, attempt: int
) -> None:
    village, records = Village(), acquainted(PEERS)
    daemons = [Daemon(village, who, name) for name, who in PEERS.items()]
    async with trio.open_nursery() as nursery:
        for daemon in daemons:
            members = Members(ROOT.public)
            for record in records:
                members.add(record)
            daemon.mesh.add_mesh(members, [AT])
            await daemon.start(nursery)
        for daemon in daemons:
            await daemon.until_linked(*[other for other in daemons if other is not daemon])
        for daemon in daemons:
            for other in daemons:
                if other is not daemon:
                    assert daemon.mesh.send(other.id, Post(b"", Signed(daemon.id, bytes(64))))
        for daemon in daemons:
            others = {other.id for other in daemons if other is not daemon}

            def heard_all(daemon: Daemon = daemon, others: set[bytes] = others) -> bool:
                return {event.peer for event in daemon.told if isinstance(event, Received)} == others

            await daemon.until(heard_all, 1.0)
            assert not [event for event in daemon.told if isinstance(event, LinkDown | PathChanged)]
        nursery.cancel_scope.cancel()
