"""A home of its own for every test of the command line, and a way to type."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from discod.cli import main
from discod.demo.place import temporary_root
from tests.cli.fake_daemon import FakeDaemon, fake_daemon


class Shown(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """The data of the envelope on the last line."""
        answer = json.loads(self.out.splitlines()[-1])
        assert answer["ok"], answer
        return answer["data"]

    @property
    def error(self) -> Any:
        """The error envelope on the last line."""
        answer = json.loads(self.out.splitlines()[-1])
        assert answer["schema"] == "discod.error/1"
        return answer


Type = Callable[..., Shown]


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home with a short path; what the person's own environment says is left out."""
    with temporary_root() as root:
        monkeypatch.setenv("DISCOD_HOME", str(root / "home"))
        monkeypatch.delenv("DISCOD_INVITE", raising=False)
        monkeypatch.chdir(root)
        yield root / "home"


@pytest.fixture
def discod(home: Path, capsys: pytest.CaptureFixture[str]) -> Type:
    """Type a command."""

    def run(*words: str) -> Shown:
        capsys.readouterr()
        code = main.execute(words)
        return Shown(code, *capsys.readouterr())

    return run


@pytest.fixture
def daemon(home: Path, discod: Type) -> Iterator[FakeDaemon]:
    """A home with an identity, and a fake daemon in it."""
    assert discod("init", "--name", "clinic-a").code == 0
    with fake_daemon(home / "control.sock") as fake:
        yield fake
