"""`discod mesh`: who may talk to whom."""

from __future__ import annotations

from typing import Any

import click

from discod.cli import home, output
from discod.cli.main import Verbs
from discod.cli.status import mesh_line


@click.group(cls=Verbs)
def mesh() -> None:
    """Make or look at a mesh: who may talk to whom."""


@mesh.command()
@click.argument("name")
@click.option("--signaling", required=True, help="The meeting point: HOST, HOST:PORT, ws:// or wss:// URL.")
@click.option("--name", "peer_name", help="This machine's name, if it has no identity yet.")
def create(name: str, signaling: str, peer_name: str | None) -> None:
    """Make a mesh called NAME; this machine keeps its root key."""
    home.config()
    home.ensure_identity(peer_name)
    found = home.started().post("/v1/meshes", {"name": name, "signaling": signaling})
    output.emit("mesh", found, lambda: _created(found))


@mesh.command("list")
def list_() -> None:
    """The meshes this machine is in."""
    home.config()
    found = home.started().get("/v1/meshes")
    empty = "no mesh yet: discod join, or discod mesh create NAME --signaling HOST"
    output.emit("meshes", found, lambda: "\n".join(map(mesh_line, found)) or empty)


@mesh.command()
@click.argument("name", required=False)
def show(name: str | None) -> None:
    """One mesh in full; NAME may be left out when there is only one."""
    home.config()
    client = home.started()
    found = client.get(f"/v1/meshes/{home.quoted(name)}") if name else home.only_mesh(client)
    output.emit("mesh", found, lambda: output.columns((), _rows(found)))


def _created(mesh: dict[str, Any]) -> str:
    signaling = f"signaling {mesh['signaling']['url']} (key {mesh['signaling']['key']})"
    return f"mesh {mesh['name']}  {mesh['short']}   {signaling}\nnext: discod invite"


def _rows(mesh: dict[str, Any]) -> list[tuple[str, object]]:
    signaling = mesh["signaling"]
    seen = "connected" if signaling["connected"] else f"unreachable: {signaling['error'] or 'retrying'}"
    return [
        ("name", mesh["name"]),
        ("id", mesh["id"]),
        ("role", mesh["role"] + (" (this machine holds the root key)" if mesh["root"] else "")),
        ("peers", f"{mesh['peers']} ({mesh['linked']} linked: {mesh['direct']} direct, {mesh['relayed']} relayed)"),
        ("signaling", f"{signaling['url']}  {seen}"),
        ("its key", signaling["key"]),
    ]
