"""`bench round` and the floor under it: what they measure, what they check, and that nothing of them is left."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import _daemons, floor
from benchmarks.round import wrong
from discod import ring
from discod.errors import UserError
from discod.train.datasets import load
from discod.train.standin import TILE, StandIn

REPOSITORY = Path(__file__).resolve().parents[1]
KEYS = {"tool", "bench", "seed", "load1", "mode", "mb", "clients", "rounds", "round_s", "median_round_s", "keys_s"}


def bench(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"benchmarks/{name}.py", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.fixture
def short_tmp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary roots go: short, because the paths of sockets must be."""
    with tempfile.TemporaryDirectory(prefix="dd") as name:
        monkeypatch.setenv("TMPDIR", name)
        yield Path(name)


def command_lines() -> list[str]:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it ended while we looked
            continue
    return lines


def nothing_is_left(where: Path) -> bool:
    return not list(where.iterdir()) and not [line for line in command_lines() if str(where) in line]


# The floor


@pytest.mark.parametrize(("peers", "floats"), [(2, 1), (3, 1000), (5, 33)])  # 5 peers, 34 words: two own no chunk
def test_a_floor_of_tiny_vectors_sums_right_and_ends(peers: int, floats: int) -> None:
    seconds = floor.measure(peers, floats, rounds=2, seed=7)
    assert len(seconds) == 2
    assert all(0 < one < 60 for one in seconds)


def test_a_wrong_sum_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "right_sum", lambda plan: "another")
    with pytest.raises(floor.WrongSum):
        floor.measure(2, 10, rounds=1, seed=0)


def test_the_right_sum_is_that_of_all_updates() -> None:
    plan = floor.Plan(3, 50, 9, bytes(32))
    updates = np.array([floor.update_of(plan, peer) for peer in range(3)], np.uint64)
    total = (updates.sum(axis=0) % (1 << 32)).astype("<u4")
    assert floor.right_sum(plan) == sha256(total.tobytes()).hexdigest()


def test_the_floor_alone_prints_a_row() -> None:
    done = bench("floor", "--peers", "3", "--mb", "0.004", "--rounds", "2", "--seed", "4")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout.splitlines()[-1])
    assert (row["bench"], row["clients"], row["mb"], row["rounds"], row["seed"]) == ("floor", 3, 0.004, 2, 4)
    assert len(row["round_s"]) == 2
    assert min(row["round_s"]) <= row["median_round_s"] <= max(row["round_s"])


# The arguments


@pytest.mark.parametrize("name", ["round", "floor"])
def test_help_says_how_to_call_it(name: str) -> None:
    done = bench(name, "--help")
    assert done.returncode == 0
    assert f"run.py bench {name}" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--peers", "1"], "the number of peers must be 2 to 64, not '1'"),
        (["--peers", "few"], "the number of peers must be 2 to 64, not 'few'"),
        (["--mb", "0"], "the size of the vector in MB (10^6 bytes) must be 4e-06 to 2000, not '0'"),
        (["--mb", "nan"], "the size of the vector in MB (10^6 bytes) must be 4e-06 to 2000, not 'nan'"),
        (["--rounds", "0"], "the number of rounds must be 1 to 1000, not '0'"),
        (["--aggregator", "median"], "invalid choice: 'median'"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments: list[str], said: str) -> None:
    done = bench("round", *arguments)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


# What is checked


def joint_parameters(task: Any, samples: Sequence[str], floats: int) -> tuple[Any, Any]:
    """(with the codec, in float64): every round in full length, trained by the stand-in itself."""
    parts = [load(f"sample:{sample}", task.data) for sample in samples]
    base, true, bound = np.zeros(floats, np.float32), np.zeros(floats), task.bound
    for number in range(task.rounds):
        words, locals_ = [], []
        for part in parts:
            local = base.copy()
            start = number * task.round_duration
            trainer = StandIn(task, local, part, batch_counter=start, seconds_per_batch=0)
            count = trainer.train(task.round_duration).rows
            out = np.empty(floats + 1, np.uint32)
            ring.encode(local, base, ring.Codec(len(parts), bound), ring.weight_word(count, task.weight_cap), out)
            words.append(out)
            locals_.append(local.astype(np.float64))
        total = np.empty(floats + 1, np.uint32)
        ring.combine(words, total)
        codec, after = ring.Codec(len(parts), bound), np.empty_like(base)
        bound = ring.apply_mean(base, total, codec, after).next_bound
        base, true = after, np.mean(locals_, axis=0)
    return base, true


@pytest.mark.parametrize("floats", [100, TILE + 3000])
def test_the_right_model_is_the_mean_of_what_the_stand_ins_trained(floats: int) -> None:
    task, samples = _daemons.task_for(3, 3, 11, "mean"), [f"digits:{part}/3" for part in (1, 2, 3)]
    base, true = joint_parameters(task, samples, floats)
    assert _daemons.right_model(task, samples, floats) == ring.hash_floats(base).hex()
    assert np.abs(base - true).max() < 1e-7  # only the last round's error: each starts from the coded base
    assert np.abs(base).max() > 1e-3


def test_a_round_lasts_from_the_last_update_to_the_last_certificate() -> None:
    notes = _daemons.Notes(2)
    for name, type_, number, time in (
        ("a", "round.shared", 1, 10.0),
        ("b", "round.shared", 1, 11.0),
        ("b", "round.certified", 1, 11.5),
        ("a", "round.certified", 1, 12.25),
        ("a", "round.shared", 2, 20.0),
        ("a", "round.certified", 2, 21.0),
    ):
        notes.take(name, {"type": type_, "round": number, "time": time})
    assert list(notes.rounds()) == [1.25]  # the second one is not everybody's yet


def test_a_run_that_fails_ends_the_measurement() -> None:
    error = {"code": "training-failed", "message": "diverged", "hint": "lower it", "exit": 1}
    with pytest.raises(UserError, match="b: diverged"):
        _daemons.Notes(2).take("b", {"type": "run.failed", "error": error})


def test_models_that_differ_or_are_not_numpys_are_wrong() -> None:
    def outcome(*models: str, seconds: int = 2) -> _daemons.Outcome:
        return _daemons.Outcome([0.1] * seconds, [], {}, 1.0, 2.0, list(models), "aa", 0)

    assert wrong(outcome("aa", "aa"), 2) is None
    assert "different models" in str(wrong(outcome("aa", "bb"), 2))
    assert "numpy says aa" in str(wrong(outcome("bb", "bb"), 2))
    assert "1 of 2 rounds" in str(wrong(outcome("aa", "aa", seconds=1), 2))


# The real thing


@pytest.mark.faults
def test_real_daemons_hold_the_right_model_and_nothing_is_left(short_tmp: Path) -> None:
    done = bench("round", "--peers", "3", "--mb", "0.004", "--rounds", "2", "--floor", "--seed", "3")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout.splitlines()[-1])
    assert row.keys() >= KEYS | {"bytes_up_per_peer", "peak_rss_mb", "floor_median_s", "ratio"}
    assert (row["tool"], row["bench"], row["mode"], row["clients"], row["seed"]) == ("discod", "round", "mean", 3, 3)
    assert row["keys_s"] is None
    assert row["ratio"] == pytest.approx(row["median_round_s"] / row["floor_median_s"], rel=0.01)
    vector = 4004  # with the weight word; (2n - 1)/n of them are sent, by all three together 5
    assert row["bytes_up_by_kind"]["bulk"] * 3 == pytest.approx(5 * vector, abs=1000)
    assert nothing_is_left(short_tmp)


@pytest.mark.faults
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing(number: signal.Signals, status: int, short_tmp: Path) -> None:
    command = [sys.executable, "benchmarks/round.py", "--peers", "3", "--mb", "0.004", "--rounds", "50"]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        while "round 1" not in (line := process.stderr.readline()):
            assert line, "it ended before a round was over"
        process.send_signal(number)
        rest = process.communicate(timeout=30)[1]
    assert process.returncode == status
    assert "nothing of it is left" in rest
    assert nothing_is_left(short_tmp)
