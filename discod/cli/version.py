"""`discod version`."""

from __future__ import annotations

import click

from discod import __version__
from discod.cli import output


@click.command()
def version() -> None:
    """The version."""
    output.emit("version", {"version": __version__}, f"discod {__version__}")
