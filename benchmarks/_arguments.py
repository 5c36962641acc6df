"""The command line of bench round and of the floor under it: how many peers, how large a vector, how many rounds."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn

MB = 1e6  # bytes
FLOAT_BYTES = 4
MOST_PEERS, MOST_MB, MOST_ROUNDS = 64, 2000.0, 1000


def number(low: float, high: float, kind: Callable[[str], Any], what: str) -> Callable[[str], Any]:
    """A reader of arguments from `low` to `high`."""

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{what} must be {low:g} to {high:g}, not {text!r}")
        return value

    return read


def add_to(parser: argparse.ArgumentParser) -> None:
    """--peers, --mb, --rounds, --seed."""
    parser.add_argument("--peers", type=number(2, MOST_PEERS, int, "the number of peers"), default=4)
    mb = number(FLOAT_BYTES / MB, MOST_MB, float, "the size of the vector in MB (10^6 bytes)")
    parser.add_argument("--mb", type=mb, default=10.0, help="size of the vector, MB of 10^6 bytes (default: 10)")
    parser.add_argument("--rounds", type=number(1, MOST_ROUNDS, int, "the number of rounds"), default=7)
    parser.add_argument("--seed", type=number(0, 1 << 62, int, "the seed"), default=0)


def floats_of(mb: float) -> int:
    """How many float32 make `mb`."""
    return round(mb * MB) // FLOAT_BYTES


def terminated(*_: object) -> NoReturn:
    sys.exit(143)
