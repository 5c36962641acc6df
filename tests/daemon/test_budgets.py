"""A budget that is used up ends the run, in words; what the control API says of budgets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import trio

from discod.config import Config
from discod.config.settings import DatasetEntry
from discod.control.events import EventLog
from discod.daemon.budgets import Budgets
from discod.daemon.exchange import DecentralizedExchange
from discod.daemon.sources import Sources
from discod.errors import Exit, UserError
from discod.privacy.accountant import epsilon_of, noise_for, sampled_gaussian
from discod.store import open_store
from discod.train.task import PrivacySpec
from discod.train.taskfile import dump_task
from discod.train.templates import builtin_task
from tests.daemon.conftest import Home, in_thread

MakeHome = Callable[[str], Home]
ROWS, BATCH, STEPS = 270, 32, 2
Q = BATCH / ROWS


def private_task(rounds: int, z: float) -> str:
    """The digits with noise, two peers, so many rounds of two steps."""
    spec = builtin_task("digits", 2)
    return dump_task(
        msgspec.structs.replace(
            spec,
            target=None,
            round=msgspec.structs.replace(spec.round, rounds=rounds, round_duration=STEPS),
            training=msgspec.structs.replace(spec.training, batch_size=BATCH, validation_split=0.0),
            privacy=PrivacySpec(unit="record", noise_multiplier=z),
        )
    )


def save_rows(path: Path, seed: int = 1, rows: int = ROWS) -> Path:
    chance = np.random.default_rng(seed)
    np.savez(path, x=chance.integers(0, 17, (rows, 8, 8)).astype(np.uint8), y=np.arange(rows) % 10)
    return path


@asynccontextmanager
async def two_peers(home: MakeHome, signaling: str, toml: str, path: Path) -> AsyncIterator[tuple[Home, Home]]:
    """a with rows of its own as `scans`, b with a bundled sample, in one mesh that offers the task `digits`."""
    a, b = home("a"), home("b")
    a.add_file("scans", path)
    b.add_data("scans", "digits:0-3")
    async with a.up(exchange=DecentralizedExchange), b.up(exchange=DecentralizedExchange):
        await a.post("/v1/meshes", {"name": "m", "signaling": signaling})
        invite = await a.post("/v1/invites", {})
        op = await b.post("/v1/join", {"link": invite["link"]})
        await in_thread(b.client.wait_for_op, op["op"], op["since"])
        await a.post("/v1/tasks", {"toml": toml})
        await b.wait_for("task.published")
        yield a, b


async def test_a_run_that_uses_up_its_budget_ends_with_a_plain_sentence(
    home: MakeHome, signaling: str, tmp_path: Path
) -> None:
    z = noise_for(8.0, 1e-5, Q, 3 * STEPS)  # three rounds, not four
    path = save_rows(tmp_path / "scans.npz")
    with trio.fail_after(60):
        async with two_peers(home, signaling, private_task(6, z), path) as (a, b):
            forecast = await a.get("/v1/tasks/digits/privacy?data=scans")
            assert forecast["spends"] > 8.0 > forecast["leaves"]
            await b.post("/v1/tasks/digits/accept", {"data": "scans"})
            run = await a.post("/v1/tasks/digits/accept", {"data": "scans"})
            ended = await a.wait_for("run.finished", "run.failed", since=run["since"])
            error = ended["error"]
            assert (error["code"], error["exit"]) == ("budget-exhausted", Exit.BUDGET_EXHAUSTED)
            assert f"the privacy budget of {path} is used up" in error["message"]
            shown = await a.get(f"/v1/runs/{run['id']}")
            assert (shown["state"], shown["round"]) == ("failed", 3)
            assert shown["privacy"]["spent"] == pytest.approx(epsilon_of(sampled_gaussian(Q, z, 6), 1e-5), abs=1e-4)
            (budget,) = await a.get("/v1/privacy")
            assert (budget["data"], budget["budget"]) == ("scans", 8.0)
            assert 7.99 < budget["spent"] <= 8.0
            assert [task["task"] for task in budget["tasks"]] == ["digits"]
            assert (await b.wait_for("peer.left"))["why"] == "budget-exhausted"
            assert str(path) not in str(await events_of(b))
            assert await b.get("/v1/privacy") == []
            with pytest.raises(UserError) as caught:
                await a.post("/v1/tasks/digits/accept", {"data": "scans"})
            assert caught.value.exit == Exit.BUDGET_EXHAUSTED
            raised = await a.post("/v1/privacy/scans/raise", {"to": 16, "reason": "the board agreed"})
            assert (raised["budget"], raised["raises"][0]["reason"]) == (16.0, "the board agreed")
            assert (await a.wait_for("privacy.raised"))["before"] == 8.0
            again = await a.post("/v1/tasks/digits/accept", {"data": "scans"})
            ended = await a.wait_for("run.finished", "run.failed", since=again["since"])
            assert (ended["type"], ended["round"]) == ("run.finished", 6)
            (budget,) = await a.get("/v1/privacy")
            assert budget["spent"] == pytest.approx(epsilon_of(sampled_gaussian(Q, z, 12), 1e-5), abs=1e-4)


async def events_of(home: Home) -> list[dict[str, Any]]:
    return await in_thread(lambda: list(home.client.events(follow=False)))


@asynccontextmanager
async def alone(home: MakeHome, signaling: str, path: Path, toml: str) -> AsyncIterator[Home]:
    """a with rows of its own as `scans`, a bundled sample as `sample`, and the task `digits`."""
    a = home("a")
    a.add_file("scans", path)
    a.add_data("sample", "digits:0-3")
    async with a.up():
        await a.post("/v1/meshes", {"name": "m", "signaling": signaling})
        await a.post("/v1/tasks", {"toml": toml})
        yield a


async def fails(home: Home, route: str, body: dict[str, Any] | None = None) -> UserError:
    with pytest.raises(UserError) as caught:
        await (home.get(route) if body is None else home.post(route, body))
    return caught.value


async def test_a_forecast_says_what_a_run_spends_and_leaves(home: MakeHome, signaling: str, tmp_path: Path) -> None:
    path = save_rows(tmp_path / "scans.npz")
    async with alone(home, signaling, path, private_task(10, 2.0)) as a:
        found = await a.get("/v1/tasks/digits/privacy?data=scans")
        whole = epsilon_of(sampled_gaussian(Q, 2.0, 20), 1e-5)
        assert (found["q"], found["z"], found["steps"], found["charged"]) == (pytest.approx(Q), 2.0, 20, True)
        assert found["epsilon"] == pytest.approx(whole)
        assert (found["budget"], found["spent"]) == (8.0, 0.0)
        assert (found["spends"], found["leaves"]) == (pytest.approx(whole), pytest.approx(8.0 - whole))
        sample = await a.get("/v1/tasks/digits/privacy?data=sample")
        assert (sample["unit"], sample["charged"]) == ("record", False)
        assert "spends" not in sample
        assert (await a.get("/v1/tasks/digits"))["privacy"]["noise_multiplier"] == 2.0
        assert (await fails(a, "/v1/tasks/digits/privacy")).exit == Exit.USAGE
        assert (await fails(a, "/v1/tasks/digits/privacy?data=gone")).code == "unknown-data"


async def test_budgets_are_by_content_and_named_by_alias(home: MakeHome, signaling: str, tmp_path: Path) -> None:
    path = save_rows(tmp_path / "scans.npz")
    async with alone(home, signaling, path, private_task(10, 2.0)) as a:
        (one,) = await a.get("/v1/privacy")
        assert (one["data"], one["path"], one["left"], one["tasks"]) == ("scans", str(path), 8.0, [])
        await a.post("/v1/privacy/scans/raise", {"to": 9.5, "reason": "tried"})
        path.write_bytes(save_rows(tmp_path / "more.npz", rows=ROWS + 1).read_bytes())  # a row more is other content
        assert (await a.get("/v1/privacy/scans"))["budget"] == 8.0
        save_rows(path)
        assert (await a.get("/v1/privacy/scans"))["budget"] == 9.5
        assert (await fails(a, "/v1/privacy/scans/raise", {"to": 9.0, "reason": "less"})).exit == Exit.USAGE
        assert (await fails(a, "/v1/privacy/scans/raise", {"to": 10.0, "reason": ""})).exit == Exit.USAGE
        assert (await fails(a, "/v1/privacy/sample")).code == "no-budget"
        assert (await fails(a, "/v1/privacy/gone")).code == "unknown-data"
        assert a.daemon is not None
        a.daemon._store.remove_dataset("scans")
        (one,) = await a.get("/v1/privacy")
        assert (one["data"], one["path"], one["budget"]) == (None, str(path), 9.5)


async def test_a_data_set_of_the_configuration_has_a_budget(home: MakeHome, tmp_path: Path) -> None:
    a, path = home("a"), save_rows(tmp_path / "scans.npz")
    entries = (DatasetEntry("scans", str(path)), DatasetEntry("gone", str(tmp_path / "gone.npz")))
    with closing(open_store(a.paths.state)) as store:
        sources = Sources(store, Config(dataset=entries), a.paths)
        (one,) = await Budgets(store, sources, EventLog()).all()
    assert (one["data"], one["path"], one["budget"]) == ("scans", str(path), 8.0)


async def test_with_a_damaged_ledger_no_task_with_noise_is_accepted(
    home: MakeHome, signaling: str, tmp_path: Path
) -> None:
    path = save_rows(tmp_path / "scans.npz")
    async with alone(home, signaling, path, private_task(10, 2.0)) as a:
        await a.post("/v1/privacy/scans/raise", {"to": 9.5, "reason": "tried"})
        assert a.daemon is not None
        a.daemon._store.database.write("UPDATE budget SET epsilon = 1e9")
        for route in ("/v1/privacy", "/v1/privacy/scans", "/v1/tasks/digits/privacy?data=scans"):
            assert (await fails(a, route)).code == "ledger-damaged"
        error = await fails(a, "/v1/tasks/digits/accept", {"data": "scans"})
        assert (error.code, error.exit) == ("ledger-damaged", Exit.BAD_DATA)
        assert await a.get("/v1/runs") == []
