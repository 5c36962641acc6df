"""What false updates do to a model: the digits with real training, 10 peers of which 2 lie, by each clear aggregator.

    python3 run.py bench byzantine [--peers 10 --liars 2 --rounds 80] [--sorted] [--seed 0]

Real workers train, in one process each; their updates go through the words of the ring and the sums of the daemon, not
over sockets. A liar trains as the others do, then sends FLIP or SCALE times its update, or noise of NOISE times its
size, all within the bound of the codec; the bound follows the last state as in a daemon. `clean` is the mean with
nobody lying. The rows are dealt at random, so that peers differ by chance; with `--sorted` each has labels of its own,
and then a rule that drops whoever differs drops what only they know. Exit 1 when a robust rule ends more than 3 points
below clean under any attack, or mean does not.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import trio
from _arguments import number

from discod.aggregators import RobustRule
from discod.ring import Codec, Words, apply_mean, combine, encode
from discod.robust import join
from discod.train.datasets.samples import sample
from discod.train.templates import builtin_task
from discod.train.vector import Vector
from discod.train.worker import Job, Worker, open_worker

POINTS = 3.0  # of accuracy
FLIP, SCALE, NOISE = -10.0, 100.0, 100.0
ATTACKS = ("flipped", "scaled", "random")


def lie(update: Vector, attack: str, random: np.random.Generator) -> Vector:
    """What a liar sends in place of its update (d,)."""
    if attack == "random":
        size = NOISE * float(np.sqrt(np.mean(update.astype(np.float64) ** 2)))
        return random.normal(0, size, update.size).astype(np.float32)
    return update * np.float32(FLIP if attack == "flipped" else SCALE)


def joined(base: Vector, updates: list[Vector], bound: float, rule: RobustRule | None) -> tuple[Vector, float]:
    """(d,) the next state, and its bound."""
    codec, zeros, out = Codec(len(updates), bound), np.zeros_like(base), np.empty_like(base)
    pieces: list[Words] = [np.empty(base.size, np.uint32) for _ in updates]
    for update, piece in zip(updates, pieces, strict=True):
        encode(update, zeros, codec, None, piece)
    total = np.empty(base.size, np.uint32)
    if rule is None:
        combine(pieces, total)
    else:
        join(pieces, total, rule, codec.bits)
    counted = rule.counted(len(updates)) if rule else len(updates)
    return out, apply_mean(base, total, codec, out, counted).next_bound


class Bench:
    """The workers of all peers, and one that only measures."""

    def __init__(self, peers: list[Worker], judge: Worker, first: Vector, chosen: argparse.Namespace) -> None:
        self._peers, self._judge, self._first, self._chosen = peers, judge, first, chosen

    async def accuracy(self, rule: RobustRule | None, attack: str | None, batches: int, bound: float) -> float:
        """On the test digits, after all rounds."""
        base, liars = self._first.copy(), self._chosen.liars if attack else 0
        random = np.random.default_rng(self._chosen.seed)
        for _ in range(self._chosen.rounds):
            updates = []
            for worker in self._peers:
                worker.parameters[:] = base
                await worker.train(batches)
                updates.append(worker.parameters - base)
            for place in range(liars):
                updates[place] = lie(updates[place], attack or "", random)
            base, bound = joined(base, updates, bound, rule)
        self._judge.parameters[:] = base
        return (await self._judge.evaluate("train")).accuracy


def sources(chosen: argparse.Namespace, directory: Path) -> list[str]:
    """Where each peer's rows are."""
    if chosen.sorted:
        return [f"sample:digits:{part + 1}/{chosen.peers}" for part in range(chosen.peers)]
    rows = sample("digits:train")
    order = np.random.default_rng(chosen.seed).permutation(len(rows.labels))
    paths = [directory / f"{part}.npz" for part in range(chosen.peers)]
    for part, path in enumerate(paths):
        mine = order[part :: chosen.peers]
        np.savez(path, x=rows.inputs[mine], y=rows.labels[mine])
    return [str(path) for path in paths]


async def measure(chosen: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """The row, and whether it is as it must be."""
    task = msgspec.structs.replace(builtin_task("digits", 3), seed=chosen.seed)
    alone = msgspec.structs.replace(task, training=msgspec.structs.replace(task.training, validation_split=0.0))
    rules = [RobustRule("median"), *(RobustRule(name, chosen.liars) for name in ("trimmed-mean", "multi-krum"))]
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        cache = Path(directory)
        async with AsyncExitStack() as stack:
            jobs = [Job(task, source) for source in sources(chosen, cache)]
            opened = [await stack.enter_async_context(open_worker(job, cache=cache)) for job in jobs]
            judge = await stack.enter_async_context(open_worker(Job(alone, "sample:digits:test"), cache=cache))
            bench = Bench(opened, judge, judge.parameters.copy(), chosen)
            clean = await bench.accuracy(None, None, task.round_duration, task.bound)
            for rule in (None, *rules):
                name = rule.name if rule else "mean"
                found[name] = {}
                for attack in ATTACKS:
                    accuracy = await bench.accuracy(rule, attack, task.round_duration, task.bound)
                    found[name][attack] = round(accuracy, 4)
                    print(f"{name}, {attack}: {accuracy:.4f} (clean {clean:.4f})", file=sys.stderr)
    lost = {name: 100 * (clean - min(each.values())) for name, each in found.items()}
    kept = all(lost[rule.name] <= POINTS for rule in rules) and lost["mean"] > POINTS
    row = {
        "tool": "discod",
        "bench": "byzantine",
        "seed": chosen.seed,
        "load1": round(os.getloadavg()[0], 2),
        "clients": chosen.peers,
        "liars": chosen.liars,
        "rounds": chosen.rounds,
        "sorted": chosen.sorted,
        "clean": round(clean, 4),
        **{name.replace("-", "_"): each for name, each in found.items()},
        "points_lost": {name: round(points, 2) for name, points in lost.items()},
    }
    return row, kept


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peers", type=number(3, 32, int, "peers"), default=10)
    parser.add_argument("--liars", type=number(1, 14, int, "liars"), default=2)
    parser.add_argument("--rounds", type=number(1, 1000, int, "rounds"), default=80)
    parser.add_argument("--sorted", action="store_true", help="each peer has labels of its own")
    parser.add_argument("--seed", type=number(0, 2**31, int, "seed"), default=0)
    chosen = parser.parse_args()
    if chosen.peers < (least := RobustRule("multi-krum", chosen.liars).least):
        parser.error(f"multi-krum with {chosen.liars} liars needs --peers {least} at least")
    row, kept = trio.run(measure, chosen)
    print(json.dumps(row))
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
