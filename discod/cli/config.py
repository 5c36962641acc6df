"""`discod config`: the configuration in force."""

from __future__ import annotations

import click

from discod.cli import home, output
from discod.cli.main import Verbs


@click.group(cls=Verbs)
def config() -> None:
    """The configuration in force."""


@config.command()
def path() -> None:
    """The file that discod reads and never writes."""
    places = home.paths()
    output.emit("config-path", {"path": str(places.config)}, str(places.config))


@config.command()
def show() -> None:
    """Every setting: from the file, its drop-ins, the environment or the default."""
    import msgspec

    settings = msgspec.to_builtins(home.config())
    output.emit("config", settings, lambda: "\n".join(_lines(settings)))


@config.command()
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False))
def validate(file: str | None) -> None:
    """Say what is wrong with FILE (default: the one in force), or that nothing is."""
    from pathlib import Path

    from discod.config import load_config

    place = Path(file) if file else home.paths().config
    load_config(place)
    output.emit("config-path", {"path": str(place)}, f"{place}: nothing is wrong")


def _lines(table: dict[str, object], prefix: str = "") -> list[str]:
    lines = []
    for key, value in table.items():
        if isinstance(value, dict):
            lines += _lines(value, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key} = {output.dumps(value)}")
    return lines
