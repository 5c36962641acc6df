"""`discod privacy`: the budget of each data set, what was spent of it, and how it is made larger."""

from __future__ import annotations

import time
from typing import Any

import click

from discod.cli import home, output, sources
from discod.cli.main import Verbs
from discod.client import Client
from discod.errors import UsageError


class _Privacy(Verbs):
    default = "list"


@click.group(cls=_Privacy)
def privacy() -> None:
    """What was learned from your data, and what is left of their budget; alone: the list."""


@privacy.command("list")
def list_() -> None:
    """The budget of every data set."""
    home.config()
    home.identity()
    found = home.started().get("/v1/privacy")
    head = ("DATA SET", "BUDGET", "SPENT", "LEFT", "DELTA", "BY TASK", "WHERE")
    empty = "nothing was spent, and there is no data set yet: discod data add ALIAS PATH"
    output.emit("privacy", found, lambda: output.columns(head, [_row(one) for one in found]) if found else empty)


@privacy.command()
@click.argument("dataset")
def show(dataset: str) -> None:
    """What DATASET has cost by task, and how its budget was raised."""
    home.config()
    sources.find(dataset)
    home.identity()
    found = home.started().get(f"/v1/privacy/{home.quoted(dataset)}")
    output.emit("privacy", found, lambda: "\n".join(_details(found)))


@privacy.command("raise")
@click.argument("dataset")
@click.option("--to", type=float, required=True, help="The new budget: epsilon over all tasks, 20 at most.")
@click.option("--reason", required=True, help="Why; it is kept with the budget.")
def raise_(dataset: str, to: float, reason: str) -> None:
    """Make the budget of DATASET larger. What was spent stays spent; the step and its reason are logged."""
    home.config()
    sources.find(dataset)
    if not reason.strip():
        raise UsageError("--reason is empty", "say who decided, and why")
    home.identity()
    found = home.started().post(f"/v1/privacy/{home.quoted(dataset)}/raise", {"to": to, "reason": reason})
    output.emit("privacy", found, lambda: f"raised the budget of '{dataset}' to {to:g}: {_left(found)}")


def forecast(client: Client, task: dict[str, Any], alias: str) -> list[str]:
    """What a task would cost a data set, in lines for a person; none for a task without noise."""
    if task.get("privacy", {}).get("unit", "none") == "none":
        return []
    route = f"/v1/tasks/{home.quoted(task['id'])}/privacy"
    return forecast_lines(client.get(route + home.query(data=alias, mesh=task["mesh"])))


def forecast_lines(found: dict[str, Any]) -> list[str]:
    """A forecast of the control API as lines."""
    data, delta = found["data"], _delta(found["delta"])
    lines = [_noise(found)]
    unit = "per peer and record" if found["unit"] == "peer" else "per record"
    if not found["charged"]:
        return [
            *lines,
            f"spends    epsilon {_epsilon(found['epsilon'])} (delta {delta}, {unit}), of no budget: a sample",
        ]
    budget, delta = found["budget"], _delta(found["budget_delta"])
    cost = f"spends    epsilon {_epsilon(found['spends'])} of {budget:g} on '{data}'"
    if found["leaves"] is None or found["leaves"] < 0:
        left = f"only {budget - found['spent']:.1f} is left, and training stops when that is used up"
    else:
        left = f"leaves {found['leaves']:.1f}"
    return [*lines, f"{cost}; {left} (delta {delta}, {unit})"]


def _noise(found: dict[str, Any]) -> str:
    data, z = found["data"], found["z"]
    if found["unit"] == "peer":
        return f"updates   {found['releases']} of '{data}', each clipped to {found['clip']:g}, noise z {z:g} times that"
    return f"steps     {found['steps']} on '{data}', each with noise z {z:g} and q {found['q']:.3g} of the rows"


def _row(one: dict[str, Any]) -> list[object]:
    tasks = ", ".join(f"{task['task']} {_epsilon(task['epsilon'])}" for task in one["tasks"]) or "nothing"
    name = one["data"] or f"(forgotten) {one['content'][:12]}"
    return [
        name,
        f"{one['budget']:g}",
        _epsilon(one["spent"]),
        f"{one['left']:.2f}",
        _delta(one["delta"]),
        tasks,
        one["path"],
    ]


def _details(one: dict[str, Any]) -> list[str]:
    lines = [f"{one['data']}  {one['path']}", f"epsilon {_left(one)}, at delta {_delta(one['delta'])}, per record"]
    lines += [f"task {task['task']}  {task['id']}  epsilon {_epsilon(task['epsilon'])}" for task in one["tasks"]]
    if len(one["tasks"]) > 1:
        lines.append("(tasks together cost less than the sum of what each costs alone)")
    return lines + [
        f"raised {time.strftime('%Y-%m-%d %H:%M', time.localtime(step['time']))}  "
        f"{step['from']:g} to {step['to']:g}  {step['reason']}"
        for step in one["raises"]
    ]


def _left(one: dict[str, Any]) -> str:
    return f"{_epsilon(one['spent'])} of {one['budget']:g} spent, {one['left']:.2f} left"


def _epsilon(value: float | None) -> str:
    """To two digits; JSON has no infinity."""
    return "without bound" if value is None else f"{value:.2f}"


def _delta(value: float) -> str:
    return f"{value:g}".replace("e-0", "e-")
