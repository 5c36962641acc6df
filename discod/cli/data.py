"""`discod data`: data sets of this machine. An alias names a path; nothing is copied and nothing leaves."""

from __future__ import annotations

import re
import time
from pathlib import Path

import click

from discod.cli import home, output, sources
from discod.cli.main import Verbs
from discod.errors import UsageError

ALIAS = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@click.group(cls=Verbs)
def data() -> None:
    """Data sets of this machine; they never leave it."""


@data.command()
@click.argument("alias")
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--sample", help="A bundled sample: digits:1/3 (a third), digits:0-3 (labels), digits:test.")
@click.option("--force", is_flag=True, help="Replace the data set of that alias.")
def add(alias: str, path: Path | None, sample: str | None, force: bool) -> None:
    """Name the data at PATH (.npz with arrays x and y, or a numeric .csv), or a bundled sample."""
    from discod.store import DatasetRow
    from discod.train import datasets

    if not ALIAS.fullmatch(alias):
        raise UsageError(f"{alias!r} cannot be an alias", "lower case letters, digits, - and _; 64 at most")
    if (path is None) == (sample is None):
        raise UsageError("give a PATH or a --sample", "discod data add --help")
    home.config()
    source = f"{datasets.SAMPLE_PREFIX}{sample}" if sample is not None else str(path and path.absolute())
    found = datasets.load(source, datasets.infer(source))
    if not force and any(one.alias == alias and one.source != source for one in sources.known()):
        raise UsageError(f"'{alias}' names other data already", "--force replaces it; the files stay")
    about = datasets.describe(found)
    place = None if sample is not None else source
    row = DatasetRow(alias, place, sample, found.content_hash, len(found), about, time.time())
    with home.store() as store:
        store.save_dataset(row)
    shown = {"alias": alias, "source": source, "rows": len(found), "about": about, "hash": found.content_hash.hex()}
    output.emit("dataset", shown, f"{alias}  {about} · nothing is shared")


@data.command("list")
def list_() -> None:
    """All data sets of this machine."""
    home.config()
    found = sources.known()
    shown = [one._asdict() for one in found]
    rows = [(one.alias, one.about, one.source) for one in found]
    empty = "no data set yet: discod data add ALIAS PATH"
    output.emit("datasets", shown, lambda: output.columns(("ALIAS", "WHAT", "WHERE"), rows) if rows else empty)


@data.command()
@click.argument("alias")
def show(alias: str) -> None:
    """One data set, read again now."""
    from discod.train import datasets

    home.config()
    one = sources.find(alias)
    found = datasets.load(one.source, datasets.infer(one.source))
    changed = one.content is not None and one.content != found.content_hash.hex()
    shown = {
        "alias": alias,
        "source": one.source,
        "rows": len(found),
        "about": datasets.describe(found),
        "hash": found.content_hash.hex(),
        "changed": changed,
    }
    output.emit("dataset", shown, lambda: output.columns((), list(shown.items())))


@data.command()
@click.argument("alias")
def rm(alias: str) -> None:
    """Forget an alias; the data stays where it is."""
    home.config()
    sources.find(alias)
    with home.store() as store:
        store.remove_dataset(alias)
    output.emit("dataset", {"alias": alias, "removed": True}, f"forgot '{alias}'; the data stays where it is")
