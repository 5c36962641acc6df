"""Every reader of foreign bytes (_decoders.py), fed with mutated messages by a loop of its own, without coverage.

    python3 run.py bench fuzz [--minutes 5] [--seed 0]

    executions   inputs read
    crashes      readers that once raised anything but their own error; each is shown on stderr with its input
    targets      readers in the table

The same seed makes the same inputs in the same order. Exit 1 when there is a crash.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence

from benchmarks._arguments import number
from benchmarks._decoders import Decoder, decoders
from benchmarks._mutations import mutated


def crash(decoder: Decoder, data: bytes) -> str | None:
    """What was raised that should not be, in words."""
    try:
        decoder.read(data)
    except decoder.error:
        return None
    except Exception as error:
        return f"{decoder.name}: {type(error).__name__}: {error}"[:300]
    return None


def fuzz(table: Sequence[Decoder], seed: int, going_on: Callable[[], bool]) -> tuple[int, dict[str, str]]:
    """Inputs read, and the first crash of each reader by its name."""
    executions, crashes = 0, dict[str, str]()
    while going_on():
        for decoder in table:
            data = mutated(decoder.seeds, seed)
            executions += 1
            if decoder.name not in crashes and (said := crash(decoder, data)) is not None:
                crashes[decoder.name] = said
                print(f"{said}\n  input {data.hex()}", file=sys.stderr, flush=True)
        seed += 1
    return executions, crashes


def main() -> int:
    parser = argparse.ArgumentParser(prog="run.py bench fuzz", description="Every reader of foreign bytes, mutated.")
    parser.add_argument("--minutes", type=number(0.001, 10_000, float, "the minutes"), default=5.0)
    parser.add_argument("--seed", type=number(0, 1 << 62, int, "the seed"), default=0)
    found = parser.parse_args()
    warnings.simplefilter("ignore")  # of numpy, about the arrays it is given
    end = time.monotonic() + 60 * found.minutes
    with decoders() as table:
        executions, crashes = fuzz(table, found.seed, lambda: time.monotonic() < end)
    row = {"tool": "discod", "bench": "fuzz", "seed": found.seed, "load1": round(os.getloadavg()[0], 2)}
    row |= {"executions": executions, "crashes": len(crashes), "targets": len(table), "engine": "mutations"}
    print(json.dumps(row))
    return 1 if crashes else 0


if __name__ == "__main__":
    sys.exit(main())
