"""What the terminal shows: text for people on a terminal, one envelope for programs, errors as what, why, try.

Results go to stdout. Notes, warnings and errors of the text form go to stderr, so a pipe sees results only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

from discod.cli.options import Options
from discod.errors import UserError

SPARKS = "▁▂▃▄▅▆▇█"


def options() -> Options:
    """The global options of this invocation."""
    found = click.get_current_context().find_root().obj
    return found if isinstance(found, Options) else Options()


def dumps(value: Any) -> str:
    """`value` as one line of JSON; msgspec structs become objects."""
    import msgspec

    return msgspec.json.encode(value).decode()


def write(text: str) -> None:
    """One line (or several) on stdout, flushed: a follower reads it now."""
    click.echo(text, color=colours(sys.stdout))
    sys.stdout.flush()


def emit(name: str, data: Any, text: str | Callable[[], str]) -> None:
    """The result of a verb: the envelope `discod.NAME/1` with --json, else `text`."""
    if options().json or options().jsonl:
        write(dumps({"schema": f"discod.{name}/1", "ok": True, "data": data}))
        return
    shown = text if isinstance(text, str) else text()
    if shown:
        write(shown)


def note(text: str) -> None:
    """A line beside the result, on stderr; silent with -q."""
    if not options().quiet:
        click.echo(text, err=True, color=colours(sys.stderr))


def warn(text: str) -> None:
    """A line a person should read even with -q."""
    click.echo(click.style("warning: ", fg="yellow") + text, err=True, color=colours(sys.stderr))


def colours(stream: Any) -> bool | None:
    """False when colours are off, None to let click look at the stream."""
    context = click.get_current_context(silent=True)
    found = context.find_root().obj if context else None
    return False if isinstance(found, Options) and found.no_color else None


def fail(error: UserError, found: Options) -> int:
    """Print `error` as what, why, try (or as its envelope) and return its exit code."""
    if found.json or found.jsonl:
        body = {"code": error.code, "message": error.message, "hint": error.hint, "exit": int(error.exit)}
        write(dumps({"schema": "discod.error/1", "ok": False, **body}))
    else:
        color = False if found.no_color else None
        click.echo(click.style("error: ", fg="red") + error.message, err=True, color=color)
        if error.hint:
            click.echo(click.style("try: ", fg="cyan") + error.hint, err=True, color=color)
    return int(error.exit)


def interactive() -> bool:
    """Whether a person can answer a question."""
    return sys.stdin.isatty() and not options().json and not options().jsonl


def columns(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of aligned columns under `head`; the last column is not padded."""
    lines = [[str(cell) for cell in row] for row in ([head] if head else [])] + [
        ["—" if cell is None else str(cell) for cell in row] for row in rows
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))] if lines else []
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def size(count: float) -> str:
    """Bytes for the eye: 950 B, 1.2 MB."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def span(length: float) -> str:
    """Seconds for the eye: 6 s, 11 min, 3 h."""
    if length < 90:
        return f"{length:.0f} s"
    return f"{length / 60:.0f} min" if length < 5400 else f"{length / 3600:.0f} h"


def number(value: float | None, digits: int = 3) -> str:
    """A figure that may be missing."""
    return "—" if value is None else f"{value:.{digits}f}"


def sparkline(values: Sequence[float], width: int = 12) -> str:
    """The last `width` values (0 to 1) as blocks."""
    top = len(SPARKS) - 1
    return "".join(SPARKS[min(top, max(0, round(value * top)))] for value in values[-width:])


def plural(count: int, noun: str) -> str:
    """ "1 peer", "2 peers"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}".replace(",", " ")
