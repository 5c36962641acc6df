"""`discod demo` for real: a signaling node and daemons as processes, until the joint model is good."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from discod.demo.place import PREFIX
from discod.errors import Exit

LEARNED = 0.75  # no peer alone reaches 0.5; with noise a run ends between 0.84 and 0.95
SECONDS = 120  # the target is 60 with a cold kernel cache; machines are shared
KEYS = [
    "task",
    "scheme",
    "aggregator",
    "epsilon",
    "peers",
    "rounds",
    "accuracy",
    "best_alone",
    "pooled",
    "seconds",
    "bytes_up_per_peer",
    "raw_rows_sent",
    "model_sha256",
    "paths",
    "privacy",
    "refused_pushes",
]

pytestmark = [
    pytest.mark.xdist_group("demo"),  # several at once would only measure each other
]


@pytest.fixture
def short() -> Iterator[Path]:
    """Where temporary homes go: a place of its own with a short name: the path of a socket has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="dt-", ignore_cleanup_errors=True) as place:
        yield Path(place)


@pytest.fixture
def demo(tmp_path: Path, short: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start a demo that saves into the test's own directory and whose temporary homes lie at a short one."""

    def start(*words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "discod", "demo", *words],
            cwd=tmp_path,
            env={**os.environ, "TMPDIR": str(short)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return start


def result(process: subprocess.Popen[str], *exits: int) -> Any:
    """What it answers; exit 0, or one of `exits`."""
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode in (0, *exits), f"{out}\n{err}"
    answer = json.loads(out.splitlines()[-1])
    assert (answer["schema"], answer["ok"]) == ("discod.demo/1", True)
    return answer["data"]


def children(root: Path) -> list[int]:
    """Processes whose command line names the root."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(root).encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def homes(short: Path) -> list[Path]:
    return list(short.glob(f"{PREFIX}*"))


def eventually(check: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.1)  # what other processes do tells nobody
    return check()


@pytest.mark.timeout(300)
def test_demo_is_good_twice_alike_and_leaves_what_it_says(
    demo: Callable[..., subprocess.Popen[str]], tmp_path: Path, short: Path
) -> None:
    first = result(demo("--headless", "--json", "--no-privacy"))
    assert list(first) == KEYS
    assert first["accuracy"] >= 0.92
    assert first["aggregator"] == "mean"
    assert first["best_alone"] <= 0.5
    assert first["pooled"] > first["accuracy"] - 0.02
    assert (first["peers"], first["raw_rows_sent"], first["epsilon"], first["privacy"]) == (3, 0, None, None)
    assert len(set(first["model_sha256"])) == 1
    assert first["paths"] == ["direct"] * 3
    assert homes(short) == []
    assert sorted(path.name for path in (tmp_path / "discod-demo").iterdir()) == ["digits.safetensors", "sample.npz"]
    again = demo("--headless", "--no-privacy")
    out, err = again.communicate(timeout=SECONDS)
    assert again.returncode == 0, err
    assert "round 40/40" in err
    use_what_it_printed(out, first["model_sha256"][0], tmp_path)


def use_what_it_printed(out: str, model: str, tmp_path: Path) -> None:
    """The command of the last line works, and the model is the one of the first run."""
    words = shlex.split(out.splitlines()[-1].removeprefix("try: "))
    words = words[words.index("model") :]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "discod", *words, "--home", str(tmp_path / "home"), "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    rows = json.loads(done.stdout)["data"]["rows"]
    assert sum(row["class"] == row["label"] for row in rows) >= len(rows) - 1
    from discod.cli import saved

    assert saved.load(str(tmp_path / "discod-demo" / "digits.safetensors")).hash == model


@pytest.mark.timeout(300)
def test_two_federated_are_good(demo: Callable[..., subprocess.Popen[str]]) -> None:
    seen = result(demo("--headless", "--json", "--no-save", "--scheme", "federated", "--peers", "2"), Exit.BELOW_TARGET)
    assert (seen["scheme"], seen["aggregator"], seen["rounds"], seen["refused_pushes"]) == (
        "federated",
        "mean",
        80,
        0.0,
    )
    assert seen["accuracy"] >= LEARNED
    assert seen["epsilon"] < 5
    assert len(set(seen["model_sha256"])) == 1


@pytest.mark.timeout(300)
def test_late_updates_count(
    demo: Callable[..., subprocess.Popen[str]],
) -> None:
    """Of equally fast peers: of 100 pushes 45 are refused without a cutoff, 2 with a cutoff of 2."""
    words = ("--headless", "--json", "--no-save", "--scheme", "federated", "--asynchronous")
    late = result(demo(*words, "--cutoff", "2"), Exit.BELOW_TARGET)
    assert late["accuracy"] >= LEARNED
    strict = result(demo(*words, "--rounds", "30", "--no-privacy"), Exit.BELOW_TARGET)
    assert late["refused_pushes"] < strict["refused_pushes"] / 2
    assert len(set(late["model_sha256"])) == len(set(strict["model_sha256"])) == 1


@pytest.mark.timeout(300)
def test_the_demo_is_private_unless_told_otherwise(demo: Callable[..., subprocess.Popen[str]]) -> None:
    found = result(demo("--headless", "--json", "--no-save"), Exit.BELOW_TARGET)
    assert found["aggregator"] == "secure"
    assert found["accuracy"] >= LEARNED
    assert found["best_alone"] <= 0.5
    assert 0 < found["epsilon"] <= 8
    assert found["privacy"].keys() == {"unit", "q", "z", "steps", "delta"}
    assert found["privacy"]["delta"] == 1e-5
    assert len(set(found["model_sha256"])) == 1


@pytest.mark.timeout(300)
def test_the_tumor_demo_is_good_at_epsilon_2(demo: Callable[..., subprocess.Popen[str]]) -> None:
    found = result(demo("--headless", "--json", "--no-save", "--task", "tumor"), Exit.BELOW_TARGET)
    assert found["accuracy"] >= 0.8  # simulated 600 times: 0.969 on average, 0.912 at least; always "benign": 0.63
    assert found["epsilon"] <= 2


@pytest.mark.timeout(200)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_demo_leaves_no_process_and_no_home(
    number: signal.Signals, code: int, demo: Callable[..., subprocess.Popen[str]], tmp_path: Path, short: Path
) -> None:
    process = demo("--headless", "--json", "--rounds", "100000")
    assert process.stderr is not None
    assert any("signaling" in line for line in process.stderr)
    os.kill(process.pid, number)
    out, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == code, out
    assert json.loads(out.splitlines()[-1])["code"] == "interrupted"
    assert homes(short) == []
    assert children(short) == []
    assert not (tmp_path / "discod-demo").exists()


@pytest.mark.timeout(200)
def test_children_of_a_killed_demo_end_by_themselves(demo: Callable[..., subprocess.Popen[str]], short: Path) -> None:
    process = demo("--headless", "--rounds", "100000")
    assert process.stderr is not None
    assert any("round 1/" in line for line in process.stderr)
    assert len(children(short)) >= 4
    process.kill()
    process.communicate(timeout=SECONDS)
    assert eventually(lambda: children(short) == [])
    assert eventually(lambda: homes(short) == [])
