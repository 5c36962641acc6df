"""Processes of the demo: their results and errors, and that none is left whatever happens."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from discod.demo import processes
from discod.demo.processes import command, environment, open_cast, tail, until
from discod.errors import UserError


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_command_gives_the_data_of_its_envelope(tmp_path: Path) -> None:
    found = await command(tmp_path / "home", "init", "--name", "clinic-a")
    assert (found["name"], found["made"]) == ("clinic-a", True)


async def test_failed_command_raises_what_it_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model 'nothing'") as caught:
        await command(tmp_path, "model", "export", "nothing", "-o", "x.npz")
    assert (caught.value.code, caught.value.exit) == ("no-model", 65)


async def test_answer_that_is_no_envelope_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "DISCOD", ("sh", "-c", "echo oops >&2; exit 7"))
    with pytest.raises(UserError, match="ended with 7: oops"):
        await command(tmp_path, "status")


async def test_signaling_node_starts_and_is_gone_after_an_exception(tmp_path: Path) -> None:
    pids: list[int] = []

    async def failing() -> None:
        async with open_cast(tmp_path) as cast:
            log = tmp_path / "signal.log"
            words = ["signaling", "serve", "--listen", "127.0.0.1:0", "--home", str(tmp_path / "signal")]
            process = await cast.start(words, log)
            pids.append(process.pid)
            await until(lambda: "wss://" in log.read_text(), process, "the signaling node", log)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await failing()
    assert gone(pids[0])


async def test_process_that_ends_at_once_is_reported_with_its_last_words(tmp_path: Path) -> None:
    async with open_cast(tmp_path) as cast:
        log = tmp_path / "log"
        process = await cast.start(["signaling", "serve", "--listen", "nonsense"], log)
        with pytest.raises(UserError, match="no address to listen on"):
            await until(lambda: False, process, "the node", log)


async def test_cancelled_cast_leaves_nothing(tmp_path: Path) -> None:
    with trio.CancelScope() as scope:
        async with open_cast(tmp_path) as cast:
            words = ["signaling", "serve", "--listen", "127.0.0.1:0", "--home", str(tmp_path / "signal")]
            process = await cast.start(words, tmp_path / "log")
            scope.cancel()
            await trio.sleep_forever()
    assert gone(process.pid)
    assert not await trio.Path(tmp_path).exists()


def test_children_do_not_inherit_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCOD_HOME", "/somewhere")
    monkeypatch.setenv("DISCOD_CACHE", "/cache")
    assert "DISCOD_HOME" not in environment()
    assert environment()["DISCOD_CACHE"] == "/cache"


def test_tail_is_the_end(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("\n".join(map(str, range(100))))
    assert tail(tmp_path / "log", 2) == "98\n99"
