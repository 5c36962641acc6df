"""`discod paths`: where discod keeps its files."""

from __future__ import annotations

import click

from discod.cli import home, output


@click.command()
def paths() -> None:
    """Where discod keeps its files; they need not exist."""
    places = home.paths()
    names = ("config", "state", "identity", "socket", "cache")
    data = {name: str(getattr(places, name)) for name in names}
    output.emit("paths", data, lambda: output.columns((), list(data.items())))
