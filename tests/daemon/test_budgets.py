"""A budget that is used up ends the run, in words; what the control API says of budgets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import trio

from discod.daemon.exchange import DecentralizedExchange
from discod.errors import Exit, UserError
from discod.privacy.accountant import epsilon_of, noise_for, sampled_gaussian
from discod.train.task import PrivacySpec
from discod.train.taskfile import dump_task
from discod.train.templates import builtin_task
from tests.daemon.conftest import Home, in_thread

MakeHome = Callable[[str], Home]
ROWS, BATCH, STEPS = 300, 32, 2
Q = BATCH / 270  # a tenth of the rows is kept to measure on


def private_task(rounds: int, z: float) -> str:
    """The digits with noise, two peers, so many rounds of two steps."""
    spec = builtin_task("digits", 2)
    return dump_task(
        msgspec.structs.replace(
            spec,
            target=None,
            round=msgspec.structs.replace(spec.round, rounds=rounds, round_duration=STEPS),
            training=msgspec.structs.replace(spec.training, batch_size=BATCH, validation_split=0.1),
            privacy=PrivacySpec(unit="record", noise_multiplier=z),
        )
    )


def save_rows(path: Path, seed: int = 1, rows: int = ROWS) -> Path:
    chance = np.random.default_rng(seed)
    np.savez(path, x=chance.integers(0, 17, (rows, 8, 8)).astype(np.uint8), y=np.arange(rows) % 10)
    return path


def name_data(home: Home, alias: str, path: Path) -> None:
    """As discod.toml may."""
    home.paths.config.write_text(f'[[dataset]]\nalias = "{alias}"\npath = "{path}"\n')


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
