"""`bench crowd` and `bench relay`: small ones measure, see what they check, and leave nothing."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from benchmarks._guests import call_from, open_node, people
from benchmarks.crowd import Crowd, milliseconds
from benchmarks.relay import carry
from discod.errors import Broken, UserError

REPOSITORY = Path(__file__).resolve().parents[1]


def row_of(name: str, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    row: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    assert {"tool", "bench", "seed", "load1", "mode"} <= row.keys()
    assert (row["tool"], row["bench"]) == ("discod", name)
    return row


def test_a_small_crowd_is_joined_probed_and_attacked() -> None:
    row = row_of("crowd", "--connections", "6", "--room", "3", "--seconds", "1")
    assert row["connections"] == 6
    assert row["messages"] == 2 * 20  # two rooms, twenty a second
    assert 0 < row["quiet_p50_ms"] <= row["quiet_p99_ms"] <= row["quiet_worst_ms"]
    assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["worst_ms"]
    attack = row["attack"]
    assert min(attack[kind] for kind in ("flood_messages", "slow_messages", "half_open", "oversized", "opened")) > 0


@pytest.mark.parametrize("flags", [[], ["--plain"]], ids=["tls", "plain"])
def test_a_small_relay_carries_what_was_sent(flags: list[str]) -> None:
    row = row_of("relay", "--mb", "1", "--rounds", "1", *flags)
    assert row["mode"] == ("plain" if flags else "tls")
    assert row["ratio"] == pytest.approx(row["relay_mb_s"] / row["direct_mb_s"], rel=0.01, abs=0.001)


class Liar:
    """An end that receives something else."""

    async def receive_into(self, view: memoryview) -> None:
        view[:] = bytes(len(view))

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()


async def test_bytes_that_arrive_changed_are_noticed() -> None:
    end: Any = Liar()
    with pytest.raises(UserError, match="not what was sent"):
        await carry(end, end, b"what was sent")


async def test_a_peer_that_loses_its_connection_and_a_message_that_does_not_come_are_counted() -> None:
    async with open_node([], None) as node, trio.open_nursery() as nursery:
        crowd = Crowd(node, 2, 2, 0)
        await crowd.join(nursery)
        assert crowd.lost == 0
        await crowd.guests[1][0].socket.aclose()
        latencies = await crowd.probe(0.05)
        assert latencies == [math.inf]
        assert crowd.lost == 1
        nursery.cancel_scope.cancel()


async def test_a_refused_guest_is_named() -> None:
    members, who = people(2, "two")
    async with open_node(["--limit", "joins-per-minute=1"], None) as node, trio.open_nursery() as nursery:
        await (await call_from(node.at, "127.0.0.1", nursery)).join(who[0], members)
        second = await call_from(node.at, "127.0.0.1", nursery)
        with pytest.raises(Broken, match="too-many-joins"):
            await second.join(who[1], members)
        nursery.cancel_scope.cancel()


def test_percentiles_are_of_all_and_in_milliseconds() -> None:
    shown = milliseconds([number / 1000 for number in range(101)], "x_")
    assert shown == {"x_p50_ms": 50.0, "x_p99_ms": 99.0, "x_worst_ms": 100.0}
