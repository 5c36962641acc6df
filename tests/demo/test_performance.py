"""The whole performance, with daemons that answer from a table: everything but the rounds is real.

Signaling node, commands, workers that train alone, export and sample are the real ones; what the daemons would have
trained is put into the first one's store.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from discod.demo import performance, play
from discod.demo.processes import Cast
from discod.demo.stage import choose
from discod.demo.view import Lines
from discod.errors import UserError
from discod.store import TaskRow, open_store
from discod.train.layers import layout, parameter_specs
from discod.train.task import TaskSpec, encode_task
from discod.train.vector import initial_parameters
from tests.cli.fake_daemon import MESH, MODEL, PEER, RUN, TASK, FakeDaemon, fake_daemon

TINY = choose("digits", 2, rounds=2, private=False).task


def save_result(home: Path, task: TaskSpec) -> None:
    store = open_store(home / "state")
    store.save_task(TaskRow(task.id, None, task.name, encode_task(task), True, "scans", "finished", 1.0))
    tensors = layout(task).views(initial_parameters(parameter_specs(task), task.seed))
    store.save_model(task.id, task.name, task.rounds, bytes(32), tensors, 2.0, {})
    store.close()


def script(daemon: FakeDaemon, other: str, last: dict[str, Any]) -> None:
    """What one daemon answers through a whole demo."""
    joined = {**MESH, "peers": [PEER]}
    peer = {**PEER, "name": other, "bytes_up_by_kind": {"control": 100, "bulk": 1000}}
    for method, route, data in (
        ("POST", "/v1/meshes", MESH),
        ("POST", "/v1/invites", {"id": "7F3K", "link": "set below"}),
        ("POST", "/v1/join", {"op": "op-1", "since": 0}),
        ("POST", "/v1/tasks", TASK),
        ("GET", "/v1/tasks/digits", TASK),
        ("POST", "/v1/tasks/T9KQ-FULL/accept", {**RUN, "since": 0}),
        ("GET", "/v1/runs/2", {**RUN, "round": 2, "bytes_up": 5000, "model": MODEL}),
        ("GET", "/v1/peers", [{**PEER, "self": True, "linked": False}, peer]),
    ):
        daemon.answer(method, route, data)
    figures = {"loss": 0.5, "accuracy_local": 0.4, "accuracy": 0.6, "bytes_up": 10, "peers": 2, "time": 1.0}
    daemon.events = [
        {"type": "op.finished", "op": "op-1", "data": joined},
        {"type": "run.compiling", "run": 2},
        {"type": "round.finished", "run": 2, "round": 1, "rounds": 2, **figures},
        last,
    ]


@pytest.fixture
def staged(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Daemons are fakes from here on; `last` is the event that ends each of their runs."""
    from tests.cli.test_daemon_verbs import LINK

    staged: dict[str, Any] = {"last": {"type": "run.finished", "run": 2}, "daemons": []}
    with ExitStack() as stack:

        async def settle(cast: Cast, peer: play.Peer) -> int:
            await trio.Path(peer.home).mkdir(mode=0o700)
            await peer.type("init", "--name", peer.name)
            added = await peer.type("data", "add", play.ALIAS, "--sample", peer.sample)
            save_result(peer.home, TINY)
            daemon = stack.enter_context(fake_daemon(peer.home / "control.sock"))
            script(daemon, "lab-b" if peer.name == "clinic-a" else "clinic-a", staged["last"])
            daemon.answer("POST", "/v1/invites", {"id": "7F3K", "link": LINK})
            staged["daemons"].append(daemon)
            return int(added["rows"])

        monkeypatch.setattr(play, "settle", settle)
        yield staged


async def test_figures_come_from_commands_daemons_and_links(staged: dict[str, Any], tmp_path: Path) -> None:
    keep = tmp_path / "discod-demo"
    figures, without_noise = await performance.perform(TINY, TINY, 2, Lines(), keep)
    assert without_noise is None
    assert (figures.task, figures.peers, figures.rounds) == ("digits", 2, 2)
    assert figures.paths == ["direct"]
    assert (figures.bytes_up_per_peer, figures.raw_rows_sent) == (5000, 0)
    assert figures.model_sha256 == [MODEL["hash"]] * 2
    assert figures.accuracy < figures.best_alone < figures.pooled  # the joint model is an untrained one here
    assert figures.seconds > 0
    names = sorted(path.name for path in await trio.Path(keep).glob("*"))
    assert names == ["digits.safetensors", "sample.npz"]


async def test_failed_run_ends_the_demo_and_names_the_peer(staged: dict[str, Any]) -> None:
    error = {"code": "bad-data", "message": "labels outside", "hint": "mend", "exit": 65}
    staged["last"] = {"type": "run.failed", "run": 2, "error": error}
    with pytest.RaisesGroup(pytest.RaisesExc(UserError, match="labels outside"), flatten_subgroups=True):
        await performance.perform(TINY, TINY, 2, Lines(), None)


async def test_daemon_that_ends_too_early_ends_the_demo(staged: dict[str, Any]) -> None:
    staged["last"] = {"type": "run.waiting", "run": 2, "words": ""}
    with pytest.RaisesGroup(pytest.RaisesExc(UserError, match="is gone"), flatten_subgroups=True):
        await performance.perform(TINY, TINY, 2, Lines(), None)
