"""Eight peers on slow lines that lose packets hold right secure rounds; how fast they are, bench lab measures."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.tutorial import REPOSITORY

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.xdist_group("lab")]


@pytest.mark.usefixtures("able")
def test_eight_at_10_mbit_with_loss_hold_secure_rounds_of_2_mb() -> None:
    words = [sys.executable, str(REPOSITORY / "benchmarks" / "lab.py"), "--rounds", "2"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr  # 1: a model that is not the right one
    row = json.loads(done.stdout.splitlines()[-1])
    print(row)
    assert row["lost_rounds"] == 0
    assert (row["mode"], row["clients"], row["mbit"], row["loss_percent"]) == ("secure", 8, 10.0, 1.0)
