"""How long a round takes on slow lines that lose packets: real daemons in the network lab of tests/netlab.

    python3 run.py bench lab [--peers 8 --mb 2 --mbit 10 --loss 1 --rounds 5] [--aggregator mean|secure] [--seed 0]

Needs root, iproute2 and nftables. Every peer has a network namespace of its own on one bridge; tc tbf limits its line
both ways, and so many percent of the packets that arrive are dropped. The daemons are those of bench round, and so are
round_s, keys_s and the check of the model at the end. All peers can dial each other: nothing is relayed.

    ideal_s    2 (n-1)/n vectors at the line's rate, and 5 round trips of rtt_ms (as a link without load shows it)
    ratio      median_round_s / ideal_s. What the protocol sends is (2n-1)/n vectors, with the safety copy of a peer's
               own chunk, and 4 to 5 % of headers and records: lossless lines cannot go below 1.11 at n = 8
    tcp        the congestion control of this kernel; what a loss costs is mostly its doing
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from benchmarks import _arguments as arguments
from benchmarks._daemons import STALL_SECONDS, right_model, say, task_for
from discod.train.task import TaskSpec
from tests.faults.crew import Peer
from tests.netlab.lab import why_not
from tests.netlab.town import Town, open_town

BATCH_SECONDS = 0.4
TCP = Path("/proc/sys/net/ipv4/tcp_congestion_control")


def times(peers: list[Peer], event: str, number: int) -> list[float]:
    """When each peer told of this event of a round."""
    return [told["time"] for peer in peers for told in peer.all(event, round=number)]


def spans(peers: list[Peer], rounds: int, begin: str, end: str) -> list[float]:
    """Seconds from the last of all peers to the last of all peers, by round."""
    found = [(times(peers, begin, number), times(peers, end, number)) for number in range(1, rounds + 1)]
    return [max(ended) - max(began) for began, ended in found if began and ended]


def settle(town: Town, chosen: argparse.Namespace) -> list[Peer]:
    """Everybody is linked; then the weather turns bad."""
    peers = town.settle(street="abcdefghijklmnopqrstuvwxyz"[: chosen.peers])
    town.crew.meet()
    for peer in peers:
        town.lab.limit(town.lab.hosts[peer.name], chosen.mbit)
    town.lab.lose(round(10 * chosen.loss))
    return peers


def train(town: Town, peers: list[Peer], task: TaskSpec) -> None:
    """All runs to their end."""
    town.crew.train(task)
    for number in range(1, task.rounds + 1):
        town.crew.until(lambda n=number: min(p.round for p in peers) >= n, f"all hold round {number}", STALL_SECONDS)
        say(f"  round {number}: {spans(peers, number, 'round.shared', 'round.certified')[-1]:.2f} s")
    town.crew.finish()


def rtt(peers: list[Peer]) -> float:
    """Seconds, the median over all links."""
    shown = [other["rtt_seconds"] for peer in peers for other in peer.client.get("/v1/peers")]
    return median(seconds for seconds in shown if seconds is not None)


def run(chosen: argparse.Namespace) -> int:
    """Build, train, print the row."""
    floats, load = arguments.floats_of(chosen.mb), os.getloadavg()[0]
    task = task_for(chosen.peers, chosen.rounds, chosen.seed, chosen.aggregator)
    task = msgspec.structs.replace(task, round=msgspec.structs.replace(task.round, straggle_seconds=chosen.straggle))
    with open_town(f"stand-in:{floats}:{BATCH_SECONDS}") as town:
        peers = settle(town, chosen)
        trip = rtt(peers)
        train(town, peers, task)
        seconds = spans(peers, chosen.rounds, "round.shared", "round.certified")
        keys = spans(peers, chosen.rounds, "round.opened", "round.started")
        models, parts = {peer.model for peer in peers}, [peer.part.partition(":")[2] for peer in peers]
        lost = sum(len(peer.all("round.lost")) for peer in peers)
    n, middle = chosen.peers, median(seconds)
    ideal = 2 * (n - 1) / n * chosen.mb * 8 / chosen.mbit + 5 * trip
    row: dict[str, Any] = {
        "tool": "discod",
        "bench": "lab",
        "seed": chosen.seed,
        "load1": round(load, 2),
        "mode": chosen.aggregator,
        "mb": chosen.mb,
        "clients": n,
        "rounds": chosen.rounds,
        "mbit": chosen.mbit,
        "loss_percent": chosen.loss,
        "rtt_ms": round(trip * 1e3, 2),
        "tcp": TCP.read_text().strip(),
        "round_s": [round(one, 3) for one in seconds],
        "median_round_s": round(middle, 3),
        "keys_s": round(median(keys), 3) if keys else None,
        "ideal_s": round(ideal, 3),
        "ratio": round(middle / ideal, 3),
        "lost_rounds": lost,
    }
    print(json.dumps(row))
    right = right_model(task, [f"digits:{part}" for part in parts], floats)
    if models != {right}:
        say(f"wrong: the daemons hold {sorted(models)}, numpy says {right} ({lost} lost rounds, which change it)")
    return 0 if models == {right} else 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="run.py bench lab"
    )
    arguments.add_to(parser)
    parser.set_defaults(peers=8, mb=2.0, rounds=5)
    parser.add_argument("--aggregator", choices=("mean", "secure"), default="secure")
    parser.add_argument("--mbit", type=arguments.number(0.1, 1e4, float, "the rate of a line"), default=10.0)
    parser.add_argument("--loss", type=arguments.number(0, 50, float, "the loss in percent"), default=1.0)
    parser.add_argument("--straggle", type=float, default=60.0)
    chosen = parser.parse_args()
    if why := why_not():
        say(why)
        return 1
    return run(chosen)


if __name__ == "__main__":
    sys.exit(main())
