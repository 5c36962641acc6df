"""`discod privacy`, and what a person is told before they agree to a task with noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import Type
from tests.cli.fake_daemon import RUN, STATUS, TASK, FakeDaemon

BUDGET: dict[str, Any] = {
    "data": "scans",
    "path": "/srv/scans.npz",
    "content": "ab" * 32,
    "budget": 8.0,
    "delta": 1e-5,
    "spent": 2.41,
    "left": 5.59,
    "tasks": [
        {"task": "digits", "id": "T9KQ-FULL", "epsilon": 2.0},
        {"task": "tumor", "id": "X2-FULL", "epsilon": 1.1},
    ],
    "raises": [{"time": 1.8e9, "from": 4.0, "to": 8.0, "reason": "the board agreed"}],
}
FORECAST: dict[str, Any] = {
    "data": "scans",
    "unit": "record",
    "epsilon": 2.5,
    "q": 0.2672,
    "z": 8.6,
    "steps": 320,
    "delta": 1e-6,
    "clip": 0.5,
    "charged": True,
    "budget": 8.0,
    "budget_delta": 1e-5,
    "spent": 0.0,
    "spends": 2.4,
    "leaves": 5.6,
}
PRIVATE = {**TASK, "privacy": {"unit": "record", "epsilon": 2.5, "delta": 1e-6, "noise_multiplier": 0.0, "clip": 0.5}}
ROUTE = "/v1/tasks/T9KQ-FULL/privacy?data=scans&mesh=oncology"


@pytest.fixture
def scans(discod: Type, daemon: FakeDaemon) -> None:
    """A data set of that name."""
    np.savez("scans.npz", x=np.zeros((30, 8, 8), np.uint8), y=np.arange(30) % 10)
    assert discod("data", "add", "scans", "scans.npz").code == 0


def test_budgets_are_listed(discod: Type, daemon: FakeDaemon) -> None:
    gone = BUDGET | {"data": None, "tasks": [], "content": "0123456789abcdef" * 4}
    daemon.answer("GET", "/v1/privacy", [BUDGET, gone])
    assert discod("privacy", "--json").data == [BUDGET, gone]
    lines = discod("privacy").out.splitlines()
    assert " ".join(lines[1].split()) == "scans 8 2.41 5.59 1e-5 digits 2.00, tumor 1.10 /srv/scans.npz"
    assert lines[2].startswith("(forgotten) 0123456789ab")
    assert "nothing" in lines[2]


def test_nothing_spent_says_so(discod: Type, daemon: FakeDaemon) -> None:
    daemon.answer("GET", "/v1/privacy", [])
    assert "discod data add" in discod("privacy").out


@pytest.mark.usefixtures("scans")
def test_one_budget_is_shown_with_its_raises(discod: Type, daemon: FakeDaemon) -> None:
    daemon.answer("GET", "/v1/privacy/scans", BUDGET)
    shown = discod("privacy", "show", "scans").out
    assert "epsilon 2.41 of 8 spent, 5.59 left, at delta 1e-5" in shown
    assert "task tumor  X2-FULL  epsilon 1.10" in shown
    assert "together cost less" in shown
    assert "4 to 8  the board agreed" in shown
    assert discod("privacy", "show", "scans", "--json").data == BUDGET


@pytest.mark.usefixtures("scans")
def test_a_budget_is_raised_with_a_reason(discod: Type, daemon: FakeDaemon) -> None:
    daemon.answer("POST", "/v1/privacy/scans/raise", BUDGET | {"budget": 16.0, "left": 13.59})
    shown = discod("privacy", "raise", "scans", "--to", "16", "--reason", "the board agreed")
    assert shown.out == "raised the budget of 'scans' to 16: 2.41 of 16 spent, 13.59 left\n"
    assert daemon.asked[-1] == ("POST", "/v1/privacy/scans/raise", {"to": 16.0, "reason": "the board agreed"})
    assert discod("privacy", "raise", "scans", "--to", "16").code == 2
    assert discod("privacy", "raise", "scans", "--to", "16", "--reason", " ").code == 2
    assert discod("privacy", "raise", "scna", "--to", "16", "--reason", "x").code == 65


@pytest.mark.usefixtures("scans")
def test_consent_says_what_a_run_spends_and_leaves(discod: Type, daemon: FakeDaemon) -> None:
    daemon.answer("GET", "/v1/tasks/digits", PRIVATE)
    daemon.answer("GET", ROUTE, FORECAST)
    daemon.answer("POST", "/v1/tasks/T9KQ-FULL/accept", {**RUN, "since": 0}, 202)
    shown = discod("train", "digits", "--yes", "--no-follow")
    assert "spends    epsilon 2.40 of 8 on 'scans'; leaves 5.6 (delta 1e-5, per record)" in shown.err
    assert "320 on 'scans', each with noise z 8.6 and q 0.267" in shown.err
    daemon.answer("GET", ROUTE, FORECAST | {"spent": 7.0, "leaves": -1.4})
    refused = discod("train", "digits")
    assert refused.code == 12
    assert "of 8 on 'scans'; only 1.0 is left, and training stops when that is used up" in refused.err
    daemon.answer("GET", ROUTE, FORECAST | {"spends": None, "leaves": None})
    assert "spends    epsilon without bound of 8" in discod("train", "digits").err


@pytest.mark.usefixtures("scans")
def test_a_sample_is_not_charged_and_its_epsilon_is_shown(discod: Type, daemon: FakeDaemon) -> None:
    kept = ("data", "unit", "epsilon", "q", "z", "steps", "delta", "clip")
    daemon.answer("GET", "/v1/tasks/digits", PRIVATE)
    daemon.answer("GET", ROUTE, {name: FORECAST[name] for name in kept} | {"charged": False})
    assert "spends    epsilon 2.50 (delta 1e-6, per record), of no budget" in discod("train", "digits").err


@pytest.mark.usefixtures("scans")
def test_a_task_without_noise_is_not_asked_about(discod: Type, daemon: FakeDaemon) -> None:
    daemon.answer("GET", "/v1/tasks/digits", {**TASK, "privacy": {"unit": "none"}})
    assert discod("train", "digits").code == 12
    assert [path for _, path, _ in daemon.asked if "privacy" in path] == []


@pytest.mark.usefixtures("scans")
def test_a_task_is_shown_with_what_it_costs_my_data(discod: Type, daemon: FakeDaemon) -> None:
    daemon.answer("GET", "/v1/tasks/digits", PRIVATE)
    daemon.answer("GET", ROUTE, FORECAST)
    assert "spends" not in discod("task", "show", "digits").out
    assert "spends    epsilon 2.40 of 8" in discod("task", "show", "digits", "--data", "scans").out
    daemon.answer("GET", "/v1/tasks/digits", {**PRIVATE, "mine": {"run": 2, "data": "scans", "state": "training"}})
    assert "noise z 8.6 and q 0.267" in discod("task", "show", "digits").out
    assert discod("task", "show", "digits", "--data", "nothing").code == 65


@pytest.mark.usefixtures("scans")
def test_an_exhausted_budget_is_exit_13_while_following(discod: Type, daemon: FakeDaemon) -> None:
    error = {
        "code": "budget-exhausted",
        "message": "the privacy budget is used up",
        "hint": "discod privacy",
        "exit": 13,
    }
    daemon.answer("GET", "/v1/tasks/digits", TASK)
    daemon.answer("POST", "/v1/tasks/T9KQ-FULL/accept", {**RUN, "since": 0}, 202)
    daemon.events = [{"id": 9, "type": "run.failed", "run": 2, "error": error}]
    shown = discod("train", "digits", "--yes", "--follow")
    assert (shown.code, shown.err.splitlines()[-2:]) == (
        13,
        ["error: the privacy budget is used up", "try: discod privacy"],
    )


@pytest.mark.usefixtures("scans")
def test_a_run_that_failed_asks_again(discod: Type, daemon: FakeDaemon) -> None:
    daemon.answer("GET", "/v1/tasks/digits", {**PRIVATE, "mine": {"run": 2, "data": "scans", "state": "failed"}})
    daemon.answer("GET", ROUTE, FORECAST)
    assert discod("train", "digits").code == 12


def test_status_shows_what_a_run_has_spent(discod: Type, daemon: FakeDaemon) -> None:
    run = {**RUN, "privacy": {"unit": "record", "epsilon": 2.4, "spent": 0.93}}
    daemon.answer("GET", "/v1/status", {**STATUS, "runs": [run]})
    assert "accuracy 0.910  eps 0.9/2.4  eta 11 min" in discod("status").out
