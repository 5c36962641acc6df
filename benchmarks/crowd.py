"""A node full of peers: what each costs it, and whether attackers can be felt by the others.

    python3 run.py bench crowd [--connections 1000 --room 20 --seconds 10] [--plain] [--seed 0]

A real node process, held on one core, and before others in the queue for it where that is allowed; this process plays
the peers from the others, spread over loopback addresses as if they came from many places. All of them join meshes of
--room members and stay. Then messages are introduced: a few peers send each other a Signal twenty times a second,
first in peace, then while benchmarks/_attackers.py floods from one address, does not read, leaves handshakes half-done
and sends messages that are too long.

    joins_per_s           TCP, TLS, WebSocket, Hello and Join, many at a time
    joins_per_cpu_s       the same by the seconds that the node computed
    kb_per_connection     growth of the node's VmRSS by connection, once all are idle (kB of 1000 bytes)
    quiet_p50_ms ...      from Signal to Signaled without attackers; p50_ms, p99_ms with them (the target: below 100)
    node_cpu              what the node computed while it was attacked, of one core
    attack                what became of the attackers: attempts, and refusals by name

Exit 1 when a peer was refused, lost its connection, or a message did not come.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from statistics import quantiles
from typing import Any

import trio

from benchmarks import _arguments as arguments
from benchmarks._daemons import memory_mb, say
from benchmarks._guests import REPOSITORY, Guest, Node, call_from, first_line, open_node, people
from discod.errors import Broken, UserError, first_error
from discod.identity import Identity
from discod.wire.signaling import Beat, Signal, Signaled

PEERS_OF_ADDRESS = 50
AT_A_TIME = 8
PROBING_ROOMS, PROBE_SECONDS, PROBE_BYTES = 10, 0.05, 300
BEAT_SECONDS, SETTLE_SECONDS, LATE_SECONDS = 20.0, 2.0, 10.0
MEASURED_NICE, ATTACKERS_NICE = -15, 5  # whatever else runs here is no part of what is measured


class Crowd:
    """The peers of one run."""

    def __init__(self, node: Node, connections: int, room: int, seed: int) -> None:
        self.node, self.count, self.room, self.seed = node, connections, room, seed
        self.guests: list[tuple[Guest, Identity]] = []
        self.lost = 0
        self._heard: dict[bytes, trio.MemorySendChannel[float]] = {}

    async def join(self, nursery: trio.Nursery) -> float:
        """All of them; the seconds it took.  Raises: Broken with the name of a refusal."""
        rooms = [people(self.room, f"crowd/{self.seed}/{number}") for number in range(-(-self.count // self.room))]
        waiting = [(who, members) for members, everybody in rooms for who in everybody][: self.count]
        here: list[tuple[Guest, Identity] | None] = [None] * len(waiting)
        turns = iter(enumerate(waiting))

        async def some() -> None:
            for number, (who, members) in turns:
                address = number // PEERS_OF_ADDRESS
                guest = await call_from(self.node.at, f"127.0.{1 + address // 250}.{1 + address % 250}", nursery)
                await guest.join(who, members)
                here[number] = (guest, who)
                nursery.start_soon(self._listen, guest)
                nursery.start_soon(self._beat, guest)

        started = trio.current_time()
        async with trio.open_nursery() as joining:
            for _ in range(AT_A_TIME):
                joining.start_soon(some)
        self.guests = [one for one in here if one is not None]
        return trio.current_time() - started

    async def _listen(self, guest: Guest) -> None:
        try:
            while True:
                message = await guest.hear()
                if isinstance(message, Signaled) and (heard := self._heard.pop(message.body[:8], None)) is not None:
                    heard.send_nowait(trio.current_time())
        except Broken:
            self.lost += 1

    async def _beat(self, guest: Guest) -> None:
        while True:
            await trio.sleep(BEAT_SECONDS)
            await self._say(guest, Beat(1))

    async def _say(self, guest: Guest, message: Beat | Signal) -> None:
        try:
            await guest.say(message)
        except Broken:
            return  # its listener has counted it

    async def probe(self, seconds: float) -> list[float]:
        """The latencies of messages that are introduced for so long; inf for one that did not come."""
        latencies: list[float] = []

        async def pair(number: int) -> None:
            (one, _), (_, who) = self.guests[number * self.room], self.guests[number * self.room + 1]
            for count in range(round(seconds / PROBE_SECONDS)):
                nursery.start_soon(once, one, who, f"{number:03}{count:05}".encode())
                await trio.sleep(PROBE_SECONDS)

        async def once(one: Guest, who: Identity, name: bytes) -> None:
            self._heard[name], heard = trio.open_memory_channel[float](1)
            sent, late = trio.current_time(), float("inf")
            with trio.move_on_after(LATE_SECONDS):
                await self._say(one, Signal(who.peer_id, name + bytes(PROBE_BYTES)))
                late = await heard.receive() - sent
            latencies.append(late)

        async with trio.open_nursery() as nursery:
            for number in range(min(PROBING_ROOMS, self.count // self.room)):
                nursery.start_soon(pair, number)
        return latencies


async def attacked(crowd: Crowd, seconds: float, cores: Sequence[int]) -> tuple[list[float], Counter[str]]:
    """The latencies while the attackers are at work, and what became of them."""
    at = crowd.node.at
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "benchmarks._attackers", at.url, at.key.hex(), str(crowd.seed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
    )
    os.sched_setaffinity(process.pid, cores)
    prefer(process.pid, ATTACKERS_NICE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        await first_line(process, "the attackers do not start")
        await trio.sleep(SETTLE_SECONDS)
        latencies = await crowd.probe(seconds)
        await process.stdin.aclose()
        said = b""
        with trio.move_on_after(LATE_SECONDS):
            while data := await process.stdout.receive_some():
                said += data
        return latencies, Counter(json.loads(said or b"{}"))
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


def prefer(pid: int, nice: int) -> None:
    """Let a process go before others, or after them; as it is where that is not allowed."""
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, pid, nice)


def milliseconds(latencies: list[float], prefix: str = "") -> dict[str, float]:
    """Median, 99th percentile and worst."""
    hundredths = quantiles(sorted(latencies), n=100, method="inclusive")
    shown = {"p50_ms": hundredths[49], "p99_ms": hundredths[98], "worst_ms": max(latencies)}
    return {prefix + key: round(value * 1e3, 2) for key, value in shown.items()}


async def measure(chosen: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """The row, and what went wrong."""
    cores = sorted(os.sched_getaffinity(0))
    others = cores[1:] or cores
    os.sched_setaffinity(0, others)
    flags = ["--plain"] if chosen.plain else []
    async with open_node(flags, cores[0]) as node, trio.open_nursery() as nursery:
        for pid in (0, node.pid):
            prefer(pid, MEASURED_NICE)
        warm = await call_from(node.at, "127.0.99.1", nursery)  # what the first connection loads is not of each
        empty, computed = memory_mb(node.pid, "VmRSS"), node.cpu_seconds()
        crowd = Crowd(node, chosen.connections, chosen.room, chosen.seed)
        seconds = await crowd.join(nursery)
        cpu = node.cpu_seconds() - computed
        say(f"  {chosen.connections} joined in {seconds:.1f} s, of which the node computed {cpu:.1f} s")
        await trio.sleep(SETTLE_SECONDS)
        full = memory_mb(node.pid, "VmRSS")
        quiet = await crowd.probe(chosen.seconds)
        say(f"  in peace: {milliseconds(quiet)}")
        computed, began = node.cpu_seconds(), trio.current_time()
        latencies, attack = await attacked(crowd, chosen.seconds, others)
        busy = (node.cpu_seconds() - computed) / (trio.current_time() - began)
        most = memory_mb(node.pid, "VmHWM")
        lost, missed = crowd.lost, sum(late == float("inf") for late in quiet + latencies)
        await warm.socket.aclose()
        nursery.cancel_scope.cancel()
    row = {
        "mode": "plain" if chosen.plain else "tls",
        "connections": chosen.connections,
        "joins_per_s": round(chosen.connections / seconds, 1),
        "joins_per_cpu_s": round(chosen.connections / cpu, 1) if cpu else None,
        "kb_per_connection": full and empty and round((full - empty) * 1e3 / chosen.connections, 1),
        "idle_rss_mb": full and round(full, 1),
        "peak_rss_mb": most and round(most, 1),
        **milliseconds(quiet, "quiet_"),
        **milliseconds(latencies),
        "messages": len(latencies),
        "node_cpu": round(busy, 2),
        "attack": dict(sorted(attack.items())),
    }
    return row, f"{lost} peers lost their connection, {missed} messages did not come" if lost or missed else ""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="run.py bench crowd"
    )
    connections = arguments.number(2, 4000, int, "the number of connections")
    parser.add_argument("--connections", type=connections, default=1000)
    parser.add_argument("--room", type=arguments.number(2, 1000, int, "the number of members of a mesh"), default=20)
    seconds = arguments.number(0.5, 600, float, "the seconds")
    parser.add_argument("--seconds", type=seconds, default=10.0, help="how long messages are introduced, twice")
    parser.add_argument("--plain", action="store_true", help="a node without TLS of its own")
    parser.add_argument("--seed", type=arguments.number(0, 1 << 62, int, "the seed"), default=0)
    chosen, load = parser.parse_args(), os.getloadavg()[0]
    chosen.room = min(chosen.room, chosen.connections)
    try:
        row, wrong = trio.run(measure, chosen)
    except UserError as error:
        say(error.message)
        return 1
    except BaseExceptionGroup as group:
        say(str(first_error(group)))
        return 1
    print(json.dumps({"tool": "discod", "bench": "crowd", "seed": chosen.seed, "load1": round(load, 2)} | row))
    if wrong:
        say(f"wrong: {wrong}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
