"""Data sets of this machine by alias: those of `discod data add` and those of the configuration file."""

from __future__ import annotations

from typing import Any, NamedTuple

from discod.cli import home
from discod.errors import BadConfig, BadData

SAMPLE = "sample:"


class Source(NamedTuple):
    """A data set: its alias, where it comes from as train.datasets reads it, and what is known of it."""

    alias: str
    source: str
    rows: int | None = None
    about: str = "named in the configuration file"
    content: str | None = None
    added: float | None = None


def known() -> list[Source]:
    """All data sets of this home, by alias. Raises: BadConfig when file and state directory share one."""
    with home.store() as store:
        added = [_added(row) for row in store.datasets()]
    places = home.paths()
    named = [Source(entry.alias, str(places.of_entry(entry))) for entry in home.config().dataset]
    for alias in {one.alias for one in added} & {one.alias for one in named}:
        raise BadConfig(
            f"the data set '{alias}' is in {places.config} and in the state directory", f"discod data rm {alias}"
        )
    return sorted([*added, *named])


def find(alias: str) -> Source:
    """The data set of this alias. Raises: BadData when there is none."""
    from difflib import get_close_matches

    found = {one.alias: one for one in known()}
    if alias in found:
        return found[alias]
    near = get_close_matches(alias, found, n=1)
    hint = f"did you mean '{near[0]}'?" if near else "discod data add ALIAS PATH; discod data list shows what there is"
    raise BadData(f"there is no data set '{alias}' here", hint, code="unknown-data")


def _added(row: Any) -> Source:
    source = f"{SAMPLE}{row.sample}" if row.sample else row.path
    return Source(row.alias, source, row.rows, row.about, row.content.hex(), row.added)
