"""The privacy budgets of the control API: what is left of each data set's, and what a task would spend of it."""

from __future__ import annotations

import time
from typing import Any

import trio

from discod.control.events import EventLog
from discod.daemon.charging import Content, charge_of_rounds, content_of, noise_for_data, shown_noise
from discod.daemon.sources import Sources
from discod.errors import UserError
from discod.identity import short_id, show_id
from discod.store import Budget, Store
from discod.train.task import TaskSpec


class Budgets:
    """Asked anew each time: the ledger is in the store."""

    def __init__(self, store: Store, sources: Sources, events: EventLog) -> None:
        self._store, self._sources, self._events = store, sources, events

    async def all(self) -> list[dict[str, Any]]:
        """Every budget that was used or raised, and that of every data set named here. Raises: LedgerDamaged."""
        return await trio.to_thread.run_sync(self._all)

    async def one(self, alias: str) -> dict[str, Any]:
        """The budget of a data set, by what it holds now. Raises: BadData, LedgerDamaged."""
        return await trio.to_thread.run_sync(self._one, alias)

    async def raise_to(self, alias: str, to: float, reason: str) -> dict[str, Any]:
        """Make a budget larger. Raises: BadData, UsageError, LedgerDamaged."""
        content = await trio.to_thread.run_sync(self._content, alias)
        budget = self._store.raise_budget(content.hash, content.path, to, reason, time.time())
        last = budget.raises[-1]
        fields = {"data": alias, "content": content.hash.hex(), "before": last.before, "after": last.after}
        self._events.add("privacy.raised", **fields, reason=last.reason)
        return self._shown(budget, alias)

    async def forecast(self, task: TaskSpec, alias: str) -> dict[str, Any]:
        """What a run of a task on a data set would spend. Raises: BadData, LedgerDamaged."""
        source = self._sources.find(alias)
        return await trio.to_thread.run_sync(self._forecast, task, alias, source)

    def _forecast(self, task: TaskSpec, alias: str, source: str) -> dict[str, Any]:
        noise = noise_for_data(task, source)
        if noise is None:
            return {"unit": "none", "data": alias, "charged": False}
        shown = {"data": alias, **shown_noise(noise)}
        content = content_of(source)
        if content is None:
            return shown | {"charged": False}
        base = self._store.base(task.id)
        rounds = max(1, task.rounds - (base.round if base else 0))
        budget = self._store.budget(content.hash, content.path)
        after = budget.spent_with(charge_of_rounds(content, noise, rounds, task.round_duration))
        return shown | {
            "charged": True,
            "budget": budget.epsilon,
            "budget_delta": budget.delta,
            "spent": budget.spent,
            "spends": after - budget.spent,
            "leaves": budget.epsilon - after,
        }

    def _content(self, alias: str) -> Content:
        content = content_of(self._sources.find(alias))
        if content is None:
            raise UserError(f"'{alias}' is a bundled sample: nothing is charged for it", code="no-budget")
        return content

    def _one(self, alias: str) -> dict[str, Any]:
        content = self._content(alias)
        return self._shown(self._store.budget(content.hash, content.path), alias)

    def _all(self) -> list[dict[str, Any]]:
        known = self._sources.contents()  # alias -> what it held when it was added
        budgets = self._store.budgets()
        listed = {budget.content for budget in budgets}
        budgets += [self._store.budget(*content) for content in known.values() if content.hash not in listed]
        shown: dict[bytes, dict[str, Any]] = {}
        for budget in budgets:
            names = [alias for alias, c in known.items() if c.hash == budget.content]
            names = names or [alias for alias, c in known.items() if c.path == budget.path]
            shown[budget.content] = self._shown(budget, names[0] if names else None)
        return sorted(shown.values(), key=lambda one: (one["data"] or "~", one["path"], one["content"]))

    def _shown(self, budget: Budget, alias: str | None) -> dict[str, Any]:
        return {
            "data": alias,
            "path": budget.path,
            "content": budget.content.hex(),
            "budget": budget.epsilon,
            "delta": budget.delta,
            "spent": budget.spent,
            "left": budget.left,
            "tasks": [
                {"task": self._name(share.task), "id": show_id(share.task), "epsilon": budget.cost_of(share)}
                for share in budget.shares
            ],
            "raises": [
                {"time": entry.time, "from": entry.before, "to": entry.after, "reason": entry.reason}
                for entry in budget.raises
            ],
        }

    def _name(self, task: bytes) -> str:
        known = self._store.task(task)
        return known.name if known else short_id(task)
