"""Who is linked how: directly where somebody can be dialled, by relay elsewhere, and `discod peers` says why."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.faults.crew import Peer, a_task
from tests.netlab.town import PEER_PORT, Town

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120), pytest.mark.xdist_group("lab")]


def table(peer: Peer) -> dict[str, list[str]]:
    """The rows of `discod peers`, by name."""
    words = [sys.executable, "-m", "discod", "peers", "--home", str(peer.home)]
    shown = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30).stdout
    return {line.split()[0]: line.split() for line in shown.splitlines()[1:]}


def test_direct_where_one_of_two_can_be_dialled_else_by_relay_with_the_reason(town: Town) -> None:
    a, b, c, d = town.settle(homes="bc", reachable="a", street="d")
    town.crew.meet()
    assert town.paths(a) == {"b": "direct", "c": "direct", "d": "direct"}
    assert town.paths(b) == {"a": "direct", "c": "relay", "d": "direct"}
    assert town.paths(c) == {"a": "direct", "b": "relay", "d": "direct"}
    assert town.paths(d) == {"a": "direct", "b": "direct", "c": "direct"}
    box = town.lab.hosts["c"].address
    assert b.peer("c")["last_error"] == f"direct: {box}:{PEER_PORT}: does not answer"
    assert b.peer("a")["last_error"] is None
    rows = table(b)
    assert rows["c"][3] == "relay"
    assert " ".join(rows["c"]).endswith(b.peer("c")["last_error"])
    assert rows["a"][3] == "direct"
    town.crew.train(a_task("secure", rounds=4, min_peers=4, straggle_seconds=20.0))
    town.crew.finish()
