"""`discod runs`: executions of tasks and their figures."""

from __future__ import annotations

from typing import Any

import click

from discod.cli import home, output
from discod.cli.main import Verbs


class _Runs(Verbs):
    default = "list"


@click.group(cls=_Runs)
def runs() -> None:
    """Executions of tasks and their figures; alone: the list."""


@runs.command("list")
def list_() -> None:
    """All runs, the newest last."""
    home.config()
    found = home.started().get("/v1/runs")
    head = ("RUN", "TASK", "STATE", "ROUND", "LOSS", "ACCURACY", "ALONE", "SENT")
    output.emit("runs", found, lambda: output.columns(head, [_row(run) for run in found]))


@runs.command()
@click.argument("run", type=int)
def show(run: int) -> None:
    """One run, with its figures round by round."""
    home.config()
    found = home.started().get(f"/v1/runs/{run}")
    output.emit("run", found, lambda: _details(found))


def _row(run: dict[str, Any]) -> list[object]:
    return [
        run["id"],
        run["task"],
        run["state"],
        f"{run['round']}/{run['rounds']}",
        output.number(run["loss"]),
        output.number(run["accuracy"]),
        output.number(run["accuracy_local"]),
        output.size(run["bytes_up"]),
    ]


def _details(run: dict[str, Any]) -> str:
    figures = run["series"]
    names = ("round", "loss", "accuracy_local", "accuracy", "peers")
    rows = zip(*(figures[name] for name in names), strict=True)
    head = ("ROUND", "LOSS", "BEFORE", "AFTER", "PEERS")
    table = output.columns(head, [(r, *(output.number(v) for v in (a, b, c)), peers) for r, a, b, c, peers in rows])
    lines = [f"run {run['id']} of {run['task']}: {run['state']}" + (f", {run['words']}" if run["words"] else "")]
    if run["error"]:
        lines.append(f"error {run['error']['message'] if isinstance(run['error'], dict) else run['error']}")
    return "\n".join([*lines, table])
