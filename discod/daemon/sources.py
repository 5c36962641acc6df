"""Data sets by alias: those of `discod data add` in the store, and those of the configuration file."""

from __future__ import annotations

import os
from contextlib import suppress
from difflib import get_close_matches
from typing import Any

import trio

from discod.config import Config, Paths
from discod.daemon.charging import Content, charge_of_rounds, content_of, noise_for_data
from discod.errors import BadConfig, BadData, UserError
from discod.store import DatasetRow, Store
from discod.store.budgets import exhausted
from discod.train import datasets
from discod.train.task import TaskSpec


class Sources:
    """Looked up anew each time: the command line adds data sets while the daemon runs."""

    def __init__(self, store: Store, config: Config, paths: Paths) -> None:
        self._store, self._config, self._paths = store, config, paths

    def find(self, alias: str) -> str:
        """Where the data of an alias are, as train.datasets reads it. Raises: BadData, BadConfig."""
        known = {row.alias: _source(row) for row in self._store.datasets()}
        for entry in self._config.dataset:
            if entry.alias in known:
                why = f"the data set '{entry.alias}' is in {self._paths.config} and in the state directory"
                raise BadConfig(why, f"discod data rm {entry.alias}")
            known[entry.alias] = str(self._paths.of_entry(entry))
        if alias in known:
            return known[alias]
        near = get_close_matches(alias, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "discod data add ALIAS PATH"
        raise BadData(f"there is no data set {alias[:64]!r} here", hint, code="unknown-data")

    async def check(self, alias: str, task: TaskSpec) -> str:
        """The source of an alias whose data fit the task, and whose budget allows at least one round.

        Raises: BadData, PermissionProblem, BudgetExhausted, LedgerDamaged.
        """
        source = self.find(alias)
        await trio.to_thread.run_sync(self._check, source, task)
        return source

    def _check(self, source: str, task: TaskSpec) -> None:
        noise = noise_for_data(task, source)
        if noise is None or (content := content_of(source)) is None:
            return
        budget, charge = self._store.budget(*content), charge_of_rounds(content, noise, 1, task.round_duration)
        if not budget.covers(charge):
            raise exhausted(budget, charge)

    def contents(self) -> dict[str, Content]:
        """What the data sets hold by alias: of `discod data add` as it was then, of the configuration file as it is.

        Bundled samples, and files that cannot be read now, are left out. Blocking.
        """
        rows = [row for row in self._store.datasets() if row.path is not None]
        found = {row.alias: Content(row.content, os.path.realpath(str(row.path))) for row in rows}
        for entry in self._config.dataset:
            with suppress(UserError):
                if (content := content_of(str(self._paths.of_entry(entry)))) is not None:
                    found[entry.alias] = content
        return found

    def all(self) -> list[dict[str, Any]]:
        """The Datasets of the control API."""
        shown = [_shown(row) for row in self._store.datasets()]
        for entry in self._config.dataset:
            source = str(self._paths.of_entry(entry))
            named = {"rows": None, "about": "named in the configuration file", "hash": None, "added": None}
            shown.append({"alias": entry.alias, "source": source} | named)
        return sorted(shown, key=lambda one: str(one["alias"]))


def _source(row: DatasetRow) -> str:
    return row.path if row.sample is None and row.path is not None else f"{datasets.SAMPLE_PREFIX}{row.sample}"


def _shown(row: DatasetRow) -> dict[str, Any]:
    return {
        "alias": row.alias,
        "source": _source(row),
        "rows": row.rows,
        "about": row.about,
        "hash": row.content.hex(),
        "added": row.added,
    }
