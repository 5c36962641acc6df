"""The demo's root is private, removed at the end, and an abandoned one is removed by the next demo."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from discod.demo.place import LOCK, PREFIX, remove_abandoned, temporary_root


def test_root_is_private_and_gone_after_an_exception(tmp_path: Path) -> None:
    def failing_demo() -> None:
        with temporary_root(tmp_path) as root:
            assert stat.S_IMODE(root.stat().st_mode) == 0o700
            (root / "home").mkdir()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing_demo()
    assert list(tmp_path.iterdir()) == []


def test_root_of_a_living_demo_stays(tmp_path: Path) -> None:
    with temporary_root(tmp_path) as root:
        assert remove_abandoned(tmp_path) == []
        assert root.exists()


def test_root_of_a_killed_demo_goes(tmp_path: Path) -> None:
    killed = (
        "import os, signal; from pathlib import Path; from discod.demo.place import temporary_root\n"
        f"with temporary_root(Path({str(tmp_path)!r})): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", killed], timeout=30, check=False).returncode == -9
    (left,) = tmp_path.iterdir()
    assert remove_abandoned(tmp_path) == [left]


def test_other_directories_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}mine").mkdir()  # no lock in it: not one of ours, or not ready yet
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / LOCK).touch()
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / "other")
    assert remove_abandoned(tmp_path) == []
