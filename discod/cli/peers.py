"""`discod peers`: who is in the mesh, how they are reached, what went wrong last."""

from __future__ import annotations

from typing import Any

import click

from discod.cli import home, output
from discod.cli.main import Verbs


class _Peers(Verbs):
    default = "list"


@click.group(cls=_Peers)
def peers() -> None:
    """Who is there, and how they are reached; alone: the list."""


@peers.command("list")
@click.option("--mesh", help="Only this mesh.")
def list_(mesh: str | None) -> None:
    """All peers of my meshes."""
    home.config()
    found = home.started().get("/v1/peers" + home.query(mesh=mesh))
    head = ("NAME", "ID", "STATE", "PATH", "RTT", "ROUND", "UP/DOWN", "VERSION", "LAST ERROR")
    output.emit("peers", found, lambda: output.columns(head, [[*_row(p), p["last_error"]] for p in found]))


@peers.command()
@click.argument("peer")
def show(peer: str) -> None:
    """Everything known about PEER (a name or an id)."""
    home.config()
    found = home.started().get(f"/v1/peers/{home.quoted(peer)}")
    output.emit("peer", found, lambda: _details(found))


def _row(peer: dict[str, Any]) -> list[object]:
    rtt = None if peer["rtt_seconds"] is None else f"{peer['rtt_seconds'] * 1000:.0f} ms"
    rounds = [task["round"] for task in peer["tasks"] if task["round"] is not None]
    bytes_ = f"{output.size(peer['bytes_up'])}/{output.size(peer['bytes_down'])}"
    latest = max(rounds, default=None)
    return [peer["name"], peer["short"], peer["state"], peer["path"], rtt, latest, bytes_, peer["version"]]


def _details(peer: dict[str, Any]) -> str:
    head, row = ("state", "path", "rtt", "round", "up/down", "version"), _row(peer)
    rows = [("name", peer["name"]), ("id", peer["id"]), ("role", peer["role"]), *zip(head, row[2:], strict=True)]
    rows += [("last error", peer["last_error"])]
    rows += [
        ("task", f"{task['task']}: {'accepted' if task['accepted'] else 'not accepted'}") for task in peer["tasks"]
    ]
    return output.columns((), rows)
