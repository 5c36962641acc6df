"""What the masks of the secure sum cost: one peer's whole vector, beside one addition of two such vectors.

    python3 run.py bench masks [--params 10000000 --peers 8 --rounds 7] [--seed 0]

    fused_ms        quantise, add the streams of n - 1 pairs and of the peer itself, hash (ring.encode)
    plain_ms        the same without masks
    two_threads_ms  the same as fused_ms, the chunks shared by two threads
    combine_ms      the sum of one chunk over all peers, their own masks taken off it
    np_add_ms       one np.add of (params,) uint32
    ratio           fused_ms / np_add_ms

All five take turns, `rounds` times; medians. Exit 1 when the two threads write other words than the one, or when
unmasking does not give back the words without masks.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import numpy as np

from benchmarks._arguments import MOST_PEERS, MOST_ROUNDS, number
from discod import ring

MOST_PARAMS = 500_000_000
BOUND = 0.5
WEIGHT = 54321  # a vector that is not weighted is encoded a little faster
THREADS = 2


class Bench:
    """The vectors of one peer, and every kind of work on them, each a function that is timed."""

    def __init__(self, params: int, peers: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.base = random.standard_normal(params, np.float32)
        self.local = self.base + random.standard_normal(params, np.float32) * np.float32(0.1)
        keys = tuple(random.bytes(32) for _ in range(peers))
        self.masks = ring.Masks(keys[: peers // 2 + 1], keys[peers // 2 + 1 :])
        self.codec = ring.Codec(peers, BOUND)
        self.plain, self.masked, self.threaded = np.zeros((3, params + 1), np.uint32)
        self.left, self.right, self.sum = np.ones((3, params), np.uint32)
        chunk = self.plain[slice(*ring.chunk_bounds(params + 1, peers)[0])]
        self.pieces, self.total = [chunk.copy() for _ in range(peers)], np.zeros_like(chunk)
        self.pool = ThreadPoolExecutor(THREADS)

    def fused(self) -> None:
        ring.encode(self.local, self.base, self.codec, WEIGHT, self.masked, self.masks)

    def without(self) -> None:
        ring.encode(self.local, self.base, self.codec, WEIGHT, self.plain)

    def two_threads(self) -> None:
        def chunk(number: int) -> ring.Encoded:
            return ring.encode_chunk(self.local, self.base, self.codec, WEIGHT, self.threaded, number, self.masks)

        list(self.pool.map(chunk, range(self.codec.peers)))

    def combine(self) -> None:
        own = ring.Masks((), self.masks.plus + self.masks.minus)  # everybody's own stream
        ring.combine(self.pieces, self.total, 0, own)

    def add(self) -> None:
        np.add(self.left, self.right, out=self.sum)

    def wrong(self) -> str | None:
        """What is wrong with the words, in a sentence."""
        if not np.array_equal(self.masked, self.threaded):
            return "two threads wrote other words than one"
        ring.unmask(self.masked, 0, ring.Masks(self.masks.minus, self.masks.plus))
        return None if np.array_equal(self.masked, self.plain) else "unmasking does not give back the words"


def milliseconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def measure(bench: Bench, rounds: int) -> dict[str, float]:
    """The median of each kind of work; the first turn, in which memory is touched, does not count."""
    works = {
        "fused_ms": bench.fused,
        "plain_ms": bench.without,
        "two_threads_ms": bench.two_threads,
        "combine_ms": bench.combine,
        "np_add_ms": bench.add,
    }
    turns = [{name: milliseconds(work) for name, work in works.items()} for _ in range(1 + rounds)][1:]
    return {name: median(turn[name] for turn in turns) for name in works}


def row_of(chosen: argparse.Namespace, times: dict[str, float], load: float) -> dict[str, Any]:
    return {
        "tool": "discod",
        "bench": "masks",
        "seed": chosen.seed,
        "load1": round(load, 2),
        "params": chosen.params,
        "peers": chosen.peers,
        **{name: round(value, 3) for name, value in times.items()},
        "ratio": round(times["fused_ms"] / times["np_add_ms"], 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="run.py bench masks"
    )
    params = number(1, MOST_PARAMS, int, "the number of parameters")
    parser.add_argument("--params", type=params, default=10_000_000)
    parser.add_argument("--peers", type=number(3, MOST_PEERS, int, "the number of peers"), default=8)
    parser.add_argument("--rounds", type=number(1, MOST_ROUNDS, int, "the number of rounds"), default=7)
    parser.add_argument("--seed", type=number(0, 1 << 62, int, "the seed"), default=0)
    chosen = parser.parse_args()
    load = os.getloadavg()[0]
    bench = Bench(chosen.params, chosen.peers, chosen.seed)
    print(json.dumps(row_of(chosen, measure(bench, chosen.rounds), load)))
    if (why := bench.wrong()) is not None:
        print(f"wrong: {why}", file=sys.stderr)
    return 0 if why is None else 1


if __name__ == "__main__":
    sys.exit(main())
