"""`bench train` measures a real worker and prints what docs and issues quote."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


def measured(*flags: str) -> dict[str, Any]:
    command = [sys.executable, "benchmarks/train.py", "--model", "logreg", "--batch", "16", "--steps", "60", *flags]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def test_a_row_has_the_keys_of_the_contract_and_the_loss_fell() -> None:
    row = measured()
    assert (row["tool"], row["bench"], row["model"], row["batch"]) == ("discod", "train", "logreg", 16)
    assert row["ms_per_step"] > 0
    assert 0 < row["captured_start_s"] < row["compile_s"]
    assert {"seed", "load1", "privacy", "tuned", "untuned_ms", "plain_ms", "torch_ms", "ratio"} <= row.keys()
    assert row["warm_start_s"] > row["captured_start_s"]
    assert (row["privacy"], row["plain_ms"]) == ("none", None)


def test_a_row_with_privacy_is_measured_beside_the_same_without() -> None:
    row = measured("--privacy", "record")
    assert (row["privacy"], row["torch_ms"], row["ratio"]) == ("record", None, None)
    assert 0 < row["plain_ms"] < row["ms_per_step"]
