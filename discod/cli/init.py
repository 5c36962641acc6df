"""`discod init`: identity and configuration of this machine."""

from __future__ import annotations

import click

from discod.cli import home, output
from discod.errors import UsageError


@click.command()
@click.option("--name", help="How others see this peer [default: the host's name].")
def init(name: str | None) -> None:
    """Make this machine's identity and configuration; keeps what is there."""
    from discod.identity import show_id

    configured = home.config().name
    had_one = home.has_identity()
    if had_one and name is not None and name != configured:
        hint = f'to change the name others see, edit {home.paths().config}: name = "{name}"'
        raise UsageError(f"this home has an identity already, called {configured!r}", hint)
    found = home.ensure_identity(name)
    places = home.paths()
    data = {
        "name": home.config().name,
        "peer_id": show_id(found.peer_id),
        "made": not had_one,
        "identity": str(places.identity),
        "config": str(places.config),
    }
    output.emit("init", data, lambda: _text(data))


def _text(data: dict[str, object]) -> str:
    rows = [
        ("peer", f"{data['name']}  {data['peer_id']}"),
        ("identity", f"{data['identity']} (0600){'' if data['made'] else '  was here already'}"),
        ("config", data["config"]),
        ("next", "discod join   or   discod mesh create NAME --signaling HOST"),
    ]
    return output.columns((), rows)
