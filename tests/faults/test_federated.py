"""A hosting node killed in the middle of a federated run: real processes, and what is on its disk afterwards."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from discod.identity import Identity
from discod.train.task import AggregationSpec, TaskSpec
from discod.wire.federated import FederatedSpec
from tests.faults.crew import Crew, Peer, a_task

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120), pytest.mark.xdist_group("faults")]

HOSTING = ("--federated",)


def hosted(crew: Crew, rounds: int, **rule: Any) -> TaskSpec:
    """A task that the crew's node hosts."""
    key = json.loads((crew.root / "node.log").read_text().splitlines()[0])["data"]["key"]
    spec = msgspec.structs.replace(a_task(rounds=rounds), aggregation=AggregationSpec("mean"))
    return msgspec.structs.replace(spec, scheme="federated", federated=FederatedSpec(node=key, **rule))


def gather(crew: Crew, names: str) -> None:
    crew.open_node(flags=HOSTING)
    for name in names:
        crew.add(name)
    crew.meet()


def kill_and_reopen(crew: Crew, missed: int) -> None:
    """Kill -9, let every peer train `missed` more batches alone, start it again."""
    assert crew.node is not None
    peers = list(crew.peers.values())
    crew.node.end()
    before = {peer.name: batches(peer) for peer in peers}
    crew.until(
        lambda: all(batches(peer) >= before[peer.name] + missed for peer in peers), "all train on without the node"
    )
    crew.open_node(crew.url.rpartition("/")[2], flags=HOSTING)


def batches(peer: Peer) -> int:
    (run,) = peer.client.get("/v1/runs")
    return int(run["batches"])


def on_disk(crew: Crew) -> tuple[int, dict[str, int]]:
    """The node's version, and the last push of each peer that it keeps or has counted."""
    with sqlite3.connect(Path(crew.root) / "node" / "buffers.sqlite") as file:
        ((version,),) = file.execute("SELECT version FROM buffer").fetchall()
        last = {peer.hex(): seq for peer, seq in file.execute("SELECT peer, last FROM pusher")}
    file.close()
    return version, last


def check_story(crew: Crew, rounds: int) -> None:
    """Versions grow on every peer; nothing acknowledged is unknown to the node, which made each version once."""
    version, last = on_disk(crew)
    assert version == rounds
    for peer in crew.peers.values():
        told = [event["round"] for event in peer.all("round.certified")]
        assert told == sorted(set(told))
        acknowledged = max(event["seq"] for event in peer.all("federated.pushed"))
        assert last[Identity.load(peer.paths.identity).peer_id.hex()] >= acknowledged
        assert not peer.all("node.behind")


@pytest.mark.parametrize(
    "rule",
    [{"cutoff": 2, "capacity": 3}, {"mode": "synchronous", "deadline_seconds": 5.0}],
    ids=["asynchronous", "synchronous"],
)
def test_node_killed_in_the_middle_of_a_run(crew: Crew, rule: dict[str, Any]) -> None:
    gather(crew, "abc")
    task = hosted(crew, 16, **rule)  # no version without all: else two might finish before the third dials again
    crew.train(task)
    crew.reach(3, "a", "b", "c")
    kill_and_reopen(crew, 3 * task.round_duration)
    crew.reach(6, "a", "b", "c")
    kill_and_reopen(crew, task.round_duration)
    crew.finish()
    check_story(crew, 16)
    assert all(peer.all("node.lost") for peer in crew.peers.values())


def test_peer_killed_and_started_again_goes_on_and_ends_with_the_model_of_the_others(crew: Crew) -> None:
    gather(crew, "abc")
    task = hosted(crew, 12, mode="synchronous", deadline_seconds=60.0)
    crew.train(task)
    crew.reach(2, "a", "b", "c")
    b = crew.peers["b"]
    b.process.end()
    crew.reach(6, "a", "c")  # nobody waits for who is gone
    b.start()
    crew.finish()
    assert on_disk(crew)[0] == 12
