"""A minute of `bench soak`: real daemons go on whatever happens to them. For longer: run.py bench soak."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.faults, pytest.mark.timeout(360), pytest.mark.xdist_group("faults")]

REPOSITORY = Path(__file__).resolve().parents[2]
KEYS = {"minutes", "rounds", "faults", "recoveries", "hangs", "divergent", "lost", "worst_recovery_s"}


@pytest.mark.parametrize("aggregator", ["mean", "secure"])
def test_a_minute_of_faults_hangs_diverges_and_loses_nothing(aggregator: str) -> None:
    command = [sys.executable, "benchmarks/soak.py", "--minutes", "1", "--seed", "4", "--aggregator", aggregator]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout.splitlines()[-1])
    assert row.keys() >= KEYS
    assert (row["tool"], row["bench"], row["mode"], row["seed"]) == ("discod", "soak", aggregator, 4)
    assert (row["hangs"], row["divergent"], row["lost"], row["crashes"]) == (0, 0, 0, 0)
    assert min(row["faults"], row["rounds"]) >= 5
    assert row["recoveries"] == row["faults"]
