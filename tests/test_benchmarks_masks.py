"""`bench masks`: what it prints, and that it notices wrong words."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import masks

REPOSITORY = Path(__file__).resolve().parents[1]
KEYS = {"tool", "bench", "seed", "load1", "fused_ms", "np_add_ms", "ratio", "two_threads_ms"}


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/masks.py", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_a_small_run_prints_a_row() -> None:
    done = bench("--params", "70001", "--peers", "3", "--rounds", "1", "--seed", "4")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout.splitlines()[-1])
    assert row.keys() >= KEYS
    assert (row["tool"], row["bench"], row["params"], row["peers"], row["seed"]) == ("discod", "masks", 70001, 3, 4)
    assert row["ratio"] == pytest.approx(row["fused_ms"] / row["np_add_ms"], rel=0.1)


def test_two_peers_have_no_masks() -> None:
    done = bench("--peers", "2")
    assert done.returncode == 2
    assert "the number of peers must be 3 to 64, not '2'" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(("name", "said"), [("threaded", "two threads"), ("plain", "unmasking")])
def test_wrong_words_are_noticed(name: str, said: str) -> None:
    made = masks.Bench(1000, 4, 1)
    masks.measure(made, 1)
    assert made.wrong() is None
    masks.measure(made, 1)
    getattr(made, name)[7] += 1
    assert said in str(made.wrong())
