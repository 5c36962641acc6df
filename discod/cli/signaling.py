"""`discod signaling`: the meeting point of a mesh; the same program as `discod-signaling`, mounted here when called."""

from __future__ import annotations

from typing import Any

import click

from discod.cli import output


@click.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def signaling(words: tuple[str, ...]) -> Any:
    """The meeting point of a mesh: it introduces peers, and relays what it cannot read."""
    from signaling.__main__ import main

    found = output.options()
    again = [*(["--home", found.home] if found.home else []), *(["--json"] if found.json else [])]
    return main.main([*words, *again], prog_name="discod signaling", standalone_mode=False)
