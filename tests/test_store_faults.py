"""Full disks, kills at every step, kill -9: what was saved before is there, and loads."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from discod.errors import PermissionProblem, UserError
from discod.store import (
    SpentRow,
    Store,
    TaskRow,
    open_store,
)
from discod.store.files import write_whole
from tests.states import MESH, TASK, certify, header, opened, state_of, vectors


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path / "state") as store:
        yield store


def test_files_are_private(store: Store) -> None:
    certify(store, 1)
    store.save_working(TASK, vectors(1), base=state_of(1), batches=1)
    for path in store.directory.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_keeps_the_previous_model(store: Store, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    certify(store, 1)
    store.save_working(TASK, vectors(1), base=state_of(1), batches=8)

    def full(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for save in (
            lambda: store.save_candidate(TASK, state_of(2), vectors(2)),
            lambda: store.save_working(TASK, vectors(2), base=state_of(2), batches=16),
            lambda: store.save_model(TASK, "digits", 2, state_of(2), vectors(2), 0.0),
        ):
            with pytest.raises(UserError, match="no space left") as caught:
                save()
            assert caught.value.code == "disk-full"
    base, working = store.load_base(TASK), store.load_working(TASK)
    assert base is not None
    assert base.header == header(1)
    assert working is not None
    assert working.batches == 8
    assert store.models() == []
    assert not list(store.directory.rglob(".new-*"))


def test_a_full_database_is_a_full_disk(store: Store) -> None:
    store.database.rows("PRAGMA max_page_count=40")
    with pytest.raises(UserError, match="no space left") as caught:
        store.save_task(TaskRow(TASK, MESH, "digits", bytes(1 << 20), False, None, "offered", 1.0))
    assert caught.value.code == "disk-full"
    assert store.tasks() == []
    store.set_task_state(TASK, "x")


def test_an_unwritable_place_is_exit_77(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PermissionProblem):
        open_store(tmp_path / "file" / "state")
    with pytest.raises(PermissionProblem):
        write_whole(tmp_path / "gone" / "x", [b"x"])


def test_a_file_is_fsynced_before_it_gets_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def noted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any) -> Any:
            is_directory = name == "fsync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode)
            done.append("fsync directory" if is_directory else name)
            return real(*arguments)

        return step

    for name in ("write", "fsync", "replace"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    write_whole(tmp_path / "x", [b"one", b"two"])
    assert done == ["write", "write", "fsync", "replace", "fsync directory"]
    assert (tmp_path / "x").read_bytes() == b"onetwo"


class Killed(BaseException):
    """The process ends here."""


def scenario(store: Store) -> None:
    """Two rounds after the first, as a daemon saves them."""
    for number in (2, 3):
        store.save_working(TASK, vectors(number), base=state_of(number - 1), batches=8 * number)
        store.spend(TASK, SpentRow(state_of(number - 1), 8 * number, bytes([number]) * 32, 0.0, None))
        store.save_candidate(TASK, state_of(number), vectors(number))
        store.certify(TASK, [header(number)])
        store.save_model(TASK, "digits", number, state_of(number), vectors(number), 0.0)


def check_whole(directory: Path) -> int:
    """Whatever happened, this loads; returns the base's round."""
    with opened(directory) as store:
        base, working = store.load_base(TASK), store.load_working(TASK)
        assert base is not None
        assert base.vectors["parameters"].tobytes() == vectors(base.header.round)["parameters"].tobytes()
        assert base.header.state == hashlib.sha256(base.vectors["parameters"].tobytes()).digest()
        assert working is not None
        number = working.batches // 8
        np.testing.assert_array_equal(working.vectors["parameters"], vectors(number)["parameters"])
        assert working.base == state_of(number - 1)
        for row in store.models():
            loaded, info = store.load_model(row)
            assert info["state"] == hashlib.sha256(loaded["parameters"].tobytes()).hexdigest()
        assert not list(directory.rglob(".new-*"))
        return base.header.round


STEPS = ("open", "write", "fsync", "close", "replace", "unlink")


def killed_at(count: int, patch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Make the count-th file operation of the process its last; returns how many there were."""
    done = [0]

    def last(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            done[0] += 1
            if done[0] >= count:
                raise Killed
            return real(*arguments, **options)

        return step

    for name in STEPS:
        patch.setattr(os, name, last(getattr(os, name)))
    return lambda: done[0]


def prepared(directory: Path) -> Store:
    store = open_store(directory)
    certify(store, 1)
    store.save_working(TASK, vectors(1), base=state_of(0), batches=8)
    return store


def test_a_process_killed_at_any_file_operation_leaves_a_state_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = []
    for count in range(1, 1000):
        store = prepared(tmp_path / str(count))
        with monkeypatch.context() as patch:
            killed_at(count, patch)
            try:
                scenario(store)
                ended = True
            except Killed:
                ended = False
        store.close()
        rounds.append(check_whole(store.directory))
        if ended:
            break
    assert len(rounds) > 40
    assert rounds == sorted(rounds)
    assert (rounds[0], rounds[-1]) == (1, 3)


def test_a_process_killed_at_any_transaction_leaves_a_state_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = []
    for count in range(1, 1000):
        store = prepared(tmp_path / str(count))
        with monkeypatch.context() as patch:
            statements = [0]

            def trace(sql: str, count: int = count, statements: list[int] = statements) -> None:
                statements[0] += 1
                if statements[0] == count:
                    raise Killed(sql)

            patch.setattr(store.database, "_connection", Traced(store.database._connection, trace))
            try:
                scenario(store)
                ended = True
            except Killed:
                ended = False
        store.close()
        rounds.append(check_whole(store.directory))
        if ended:
            break
    assert len(rounds) > 20
    assert (rounds[0], rounds[-1]) == (1, 3)


class Traced:
    """A connection that tells each statement before running it."""

    def __init__(self, real: sqlite3.Connection, trace: Callable[[str], None]) -> None:
        self._real, self._trace = real, trace

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def execute(self, sql: str, values: Any = ()) -> sqlite3.Cursor:
        if sql != "ROLLBACK":
            self._trace(sql)
        return self._real.execute(sql, values)


CHILD = """
import sys
from pathlib import Path
from discod.store import SpentRow, open_store
from tests.states import TASK, header, state_of, vectors
store = open_store(Path(sys.argv[1]))
for number in range(2, 10**6):
    store.save_working(TASK, vectors(number), base=state_of(number - 1), batches=8 * number)
    store.spend(TASK, SpentRow(state_of(number - 1), 8 * number, number.to_bytes(32, "big"), 0.0, None))
    print("spent", number, flush=True)
    store.save_candidate(TASK, state_of(number), vectors(number))
    store.certify(TASK, [header(number)])
    print("certified", number, flush=True)
"""


def test_a_process_killed_with_minus_9_keeps_what_it_said(tmp_path: Path) -> None:
    for lines in (3, 14, 41):
        directory = tmp_path / str(lines)
        prepared(directory).close()
        said = _killed_after(lines, directory)
        certified = [int(n) for n in re.findall(r"certified (\d+)", said)]
        spent = [int(n) for n in re.findall(r"spent (\d+)", said)]
        assert check_whole(directory) >= max(certified, default=1)
        with opened(directory) as store:
            rows = {int.from_bytes(row.rid, "big") for row in store.spent(TASK)}
        assert rows >= set(spent)


def _killed_after(lines: int, directory: Path) -> str:
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-c", CHILD, str(directory)]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        said = "".join(child.stdout.readline() for _ in range(lines))
        child.send_signal(signal.SIGKILL)
        return said + child.stdout.read()
