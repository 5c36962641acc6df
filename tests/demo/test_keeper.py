"""The keeper ends what a killed demo left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from discod.demo import keeper

DEAF = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); signal.pause()"
CALM = "import signal; print(1, flush=True); signal.pause()"


def start(program: str) -> subprocess.Popen[str]:
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert child.stdout is not None
    child.stdout.readline()
    return child


@pytest.mark.parametrize(("program", "code"), [(CALM, -15), (DEAF, -9)])
def test_group_is_asked_then_killed(program: str, code: int) -> None:
    with start(program) as child:
        keeper.end([child.pid], grace_seconds=0.0 if program == DEAF else 5.0)
        assert child.wait(10) == code


def test_gone_group_is_ignored() -> None:
    with start("print(1)") as child:
        child.wait(10)
    keeper.end([child.pid])


def test_keeper_acts_when_its_pipe_closes(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "home").mkdir(parents=True)
    with start(CALM) as child:
        watcher = subprocess.Popen([sys.executable, keeper.__file__, str(root)], stdin=subprocess.PIPE, text=True)
        assert watcher.stdin is not None
        watcher.stdin.write(f"{child.pid}\n")
        watcher.stdin.close()
        assert child.wait(10) == -15
        assert watcher.wait(10) == 0
    assert not root.exists()
