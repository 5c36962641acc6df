import os
import socket
import stat
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from discod.client import Client
from discod.control.app import make_app
from discod.control.events import EventLog
from discod.control.serve import bind_socket, caller_uid, serve_control
from discod.errors import NotRunning, PermissionProblem, TimedOut

in_thread = trio.to_thread.run_sync


async def test_only_its_owner_may_open_the_socket(client: Client) -> None:
    mode = client.path.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


def test_the_kernel_names_the_caller() -> None:
    left, right = socket.socketpair(socket.AF_UNIX)
    with left, right:
        assert caller_uid(left) == os.getuid()


async def test_a_stranger_is_hung_up_on(short_directory: Path) -> None:
    path = short_directory / "s"
    stranger = frozenset({os.getuid() + 1})
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, make_app((), EventLog()), bind_socket(path), stranger)
        with pytest.raises(NotRunning):
            await in_thread(Client(path).get, "/v1/status")
        nursery.cancel_scope.cancel()


def test_a_socket_left_by_a_dead_daemon_is_replaced(short_directory: Path) -> None:
    bind_socket(short_directory / "s").close()
    bind_socket(short_directory / "s").close()
    assert [entry.name for entry in short_directory.iterdir()] == ["s"]


def test_a_directory_that_is_not_there_is_named(short_directory: Path) -> None:
    with pytest.raises(PermissionProblem, match="nowhere"):
        bind_socket(short_directory / "nowhere" / "s")


def test_nobody_there_is_not_running(short_directory: Path) -> None:
    with pytest.raises(NotRunning, match="no daemon answers"):
        Client(short_directory / "s").get("/v1/status")
    bind_socket(short_directory / "s").close()
    assert not Client(short_directory / "s").answers()


def test_a_daemon_that_does_not_answer_is_given_up_on(short_directory: Path) -> None:
    with bind_socket(short_directory / "s"), pytest.raises(TimedOut):
        Client(short_directory / "s", timeout=0.05).get("/v1/status")


async def test_a_stream_of_events_outlives_any_silence(short_directory: Path, mock_clock: MockClock) -> None:
    """Its reader has nothing more to say: a limit on reading must not end it."""
    path, log = short_directory / "s", EventLog()
    log.add("first")
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, make_app((), log), bind_socket(path), frozenset({os.getuid()}))
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(b"GET /v1/events?since=0 HTTP/1.1\r\nhost: here\r\n\r\n")
            said = bytearray()
            while b"first" not in said:
                said += await stream.receive_some()
            mock_clock.jump(24 * 3600)
            await wait_all_tasks_blocked()
            log.add("second")
            while b"second" not in said:
                more = await stream.receive_some()
                assert more, "the stream was ended"
                said += more
        nursery.cancel_scope.cancel()
