"""A daemon that ends as asked, a worker that does not, and what else may be in a daemon's place when it starts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest

from discod.errors import Exit
from tests.faults.crew import Crew, a_task, children_of, status_of

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120), pytest.mark.xdist_group("faults")]

SOON_SECONDS = 5.0  # shorter than any deadline of these rounds
STRAGGLE_SECONDS = 30.0


def test_a_daemon_that_is_told_to_end_takes_leave_and_nobody_waits_for_it(three: Crew) -> None:
    a, b, c = three.peers.values()
    three.meet()
    three.train(a_task(rounds=16, straggle_seconds=STRAGGLE_SECONDS))
    three.reach(3, "a", "b", "c")
    (worker,) = children_of(c.process.pid)
    assert c.process.end(signal.SIGTERM, SOON_SECONDS) == 0
    assert not status_of(worker)
    assert not c.paths.socket.exists()
    at = [peer.round for peer in (a, b)]
    three.until(lambda: all(peer.all("peer.disconnected", peer="c") for peer in (a, b)), "they see it leave", 2.0)
    three.until(lambda: all(peer.round > before for peer, before in zip((a, b), at, strict=True)), "they go on")
    for peer in (a, b):
        (left,) = peer.all("peer.disconnected", peer="c")
        assert left["why"] == "it said goodbye: it is stopping"
        later = [event["time"] for event in peer.all("round.certified") if event["time"] > left["time"]]
        assert later[0] - left["time"] < SOON_SECONDS
    c.start()
    three.finish()


def test_a_worker_that_is_killed_is_replaced_and_the_round_is_kept(three: Crew) -> None:
    c = three.peers["c"]
    three.meet()
    three.train(a_task(rounds=12, min_peers=3))
    three.reach(3, "a", "b", "c")
    (worker,) = children_of(c.process.pid)
    os.kill(worker, signal.SIGKILL)
    three.until(lambda: c.all("worker.died"), "its daemon notices")
    three.finish()
    assert [peer.run["worker_restarts"] for peer in three.peers.values()] == [0, 0, 1]
    assert not c.all("round.lost")


def test_a_second_daemon_in_a_home_is_refused_and_the_first_does_not_mind(crew: Crew) -> None:
    a = crew.add("a")
    a.start()
    words = [sys.executable, "-m", "discod", "daemon", "--home", str(a.home)]
    second = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode == Exit.ALREADY_RUNNING
    assert f"discod runs in this home already: process {a.process.pid} holds" in second.stderr
    assert "discod down" in second.stderr
    assert a.client.answers()
    a.process.end()
    a.start()  # a dead daemon's lock and socket are in nobody's way


def test_a_port_that_is_taken_is_replaced_with_a_warning(crew: Crew) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        crew.open_node()
        a, b = crew.add("a", listen=listen), crew.add("b", listen="off")
        crew.meet()
        texts = [warning["text"] for warning in a.client.get("/v1/status")["warnings"]]
        assert any(text.startswith(f"{listen} is in use: listening on port ") for text in texts)
        assert b.peer("a")["path"] == "direct"  # and it is the new port that it tells others
