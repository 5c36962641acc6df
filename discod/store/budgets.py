"""The privacy ledger: per content of a data set a budget, and what each task has spent of it.

    budget   by content, not by alias or path: the same data under another name has the same budget
    share    one task's curves on one content; tasks add curves, not epsilons (discod.privacy.accountant)
    raised   every increase of a budget, with its reason

`book` runs in the transaction that writes the spent record, before anything leaves: what a crash leaves behind is never
less than what left. Only a certificate takes back, by `amend`, what was charged for the worst case and did not happen:
a secure sum with more peers' noise in it, or without this peer. A row that cannot be what we wrote stops everything
that asks. What the ledger cannot see is in docs/security.md, 2.
"""

from __future__ import annotations

import math
import sqlite3
import struct
from functools import cached_property

from discod.errors import BudgetExhausted, LedgerDamaged, UsageError
from discod.privacy.accountant import ORDERS, Curve, add, epsilon_of
from discod.store.rows import Amend, Charge, Raise, Share
from discod.store.shelf import Shelf

BUDGET, BUDGET_DELTA = 8.0, 1e-5  # of a data set that nobody raised the budget of
MOST_BUDGET = 20.0  # above it delta cannot pay for batches that overflow (discod.privacy.plan)
TOLERANCE = 1e-5  # of epsilon: a task planned to cost all that is left is not stopped by rounding
MOST_REASON = 500  # characters
_CURVE = struct.Struct(f"<{len(ORDERS)}d")


class Budget:
    """What may be learned from a data set, and what was spent of it. Raises: LedgerDamaged when it is asked."""

    def __init__(
        self,
        content: bytes,
        path: str,
        epsilon: float,
        delta: float,
        shares: tuple[Share, ...],
        raises: tuple[Raise, ...],
    ) -> None:
        self.content, self.path, self.epsilon, self.delta = content, path, epsilon, delta
        self.shares, self.raises = shares, raises

    @cached_property
    def spent(self) -> float:
        """The epsilon of everything so far."""
        return self._cost(self.shares)

    @property
    def left(self) -> float:
        return max(0.0, self.epsilon - self.spent)

    def spent_with(self, charge: Charge) -> float:
        """The epsilon when this is charged too."""
        return self._cost((*self.shares, Share(b"", charge.record, charge.peer, charge.delta)))

    def covers(self, charge: Charge) -> bool:
        """Whether this may be charged."""
        return self.spent_with(charge) <= self.epsilon + TOLERANCE

    def cost_of(self, share: Share) -> float:
        """The epsilon of one task alone; those of several add up to more than they cost together."""
        return self._cost((share,))

    def _cost(self, shares: tuple[Share, ...]) -> float:
        overflow = math.fsum(share.overflow for share in shares)
        record, peer = add(*(share.record for share in shares)), add(*(share.peer for share in shares))
        return max(epsilon_of(record, self.delta, overflow), epsilon_of(peer, self.delta))


class Budgets(Shelf):
    """The budgets of all data sets that were ever charged or raised."""

    def budget(self, content: bytes, path: str = "") -> Budget:
        """The budget of a content; a whole one when it was never charged. Raises: LedgerDamaged."""
        with self.database.transaction() as connection:
            return _read(connection, content, path)

    def budgets(self) -> list[Budget]:
        """All there are, by path. Raises: LedgerDamaged."""
        with self.database.transaction() as connection:
            found = connection.execute("SELECT content, path FROM budget ORDER BY path, content").fetchall()
            return [_read(connection, content, path) for content, path in found]

    def raise_budget(self, content: bytes, path: str, to: float, reason: str, now: float) -> Budget:
        """Make a budget larger, for a reason that is kept. Raises: UsageError, LedgerDamaged."""
        reason = reason.strip()
        if not 0 < len(reason) <= MOST_REASON or not reason.isprintable():
            raise UsageError("a larger budget needs a reason", f"one line of at most {MOST_REASON} characters")
        with self.database.transaction() as connection:
            before = _read(connection, content, path)
            if not before.epsilon < to <= MOST_BUDGET:
                why = f"the budget is {before.epsilon:g} and cannot be raised to {to:g}"
                raise UsageError(why, f"it can be up to {MOST_BUDGET:g}; what was spent is never taken back")
            _save(connection, before, path)
            connection.execute("UPDATE budget SET epsilon = ? WHERE content = ?", (to, content))
            connection.execute(
                "INSERT INTO raised (content, time, before, after, reason) VALUES (?, ?, ?, ?, ?)",
                (content, now, before.epsilon, to, reason),
            )
            return _read(connection, content, path)


def book(connection: sqlite3.Connection, task: bytes, cost: Charge) -> float:
    """Charge within the transaction of the spent record; by how much epsilon grew.

    Raises: BudgetExhausted, LedgerDamaged; then nothing was written.
    """
    before = _read(connection, cost.content, cost.path)
    after = before.spent_with(cost)
    if not before.covers(cost):
        raise exhausted(before, cost)
    old = next((share for share in before.shares if share.task == task), None)
    record, peer, overflow = cost.record, cost.peer, cost.delta
    if old is not None:
        record, peer, overflow = add(old.record, record), add(old.peer, peer), old.overflow + overflow
    _save(connection, before, cost.path)
    connection.execute(
        "INSERT OR REPLACE INTO share VALUES (?, ?, ?, ?, ?)",
        (cost.content, task, _CURVE.pack(*record), _CURVE.pack(*peer), overflow),
    )
    return after - before.spent


def amend(connection: sqlite3.Connection, task: bytes, change: Amend) -> None:
    """Replace a charge by what the release has turned out to cost, within the transaction that proves it.

    Raises: LedgerDamaged.
    """
    was, now = change.was, change.now
    budget = _read(connection, was.content, was.path)
    share = next((share for share in budget.shares if share.task == task), None)
    if share is None:
        raise _damaged(budget.path)
    record, peer = _less(share.record, was.record, now.record), _less(share.peer, was.peer, now.peer)
    connection.execute(
        "UPDATE share SET record = ?, peer = ? WHERE content = ? AND task = ?",
        (_CURVE.pack(*record), _CURVE.pack(*peer), was.content, task),
    )


def _less(curve: Curve, was: Curve, now: Curve) -> Curve:
    return tuple(max(0.0, c - max(0.0, w - n)) for c, w, n in zip(curve, was, now, strict=True))


def exhausted(budget: Budget, cost: Charge) -> BudgetExhausted:
    """The sentence for a charge that is not covered."""
    spent, after, delta = budget.spent, budget.spent_with(cost), f"{budget.delta:g}".replace("e-0", "e-")
    more = f"make it {after:.2f}" if after < math.inf else "pass it by far"
    why = (
        f"the privacy budget of {cost.path} is used up: epsilon {spent:.2f} of {budget.epsilon:g} is spent "
        f"(delta {delta}), and the next update would {more}"
    )
    return BudgetExhausted(why, "discod privacy shows by what; discod privacy raise DATASET --to E --reason TEXT")


def _save(connection: sqlite3.Connection, budget: Budget, path: str) -> None:
    sql = "INSERT INTO budget VALUES (?, ?, ?, ?) ON CONFLICT (content) DO UPDATE SET path = excluded.path"
    connection.execute(sql, (budget.content, path or budget.path, budget.epsilon, budget.delta))


def _read(connection: sqlite3.Connection, content: bytes, path: str) -> Budget:
    found = connection.execute("SELECT path, epsilon, delta FROM budget WHERE content = ?", (content,)).fetchone()
    shares = connection.execute("SELECT task, record, peer, overflow FROM share WHERE content = ?", (content,))
    raises = connection.execute(
        "SELECT time, before, after, reason FROM raised WHERE content = ? ORDER BY number", (content,)
    )
    known, epsilon, delta = found or (path, BUDGET, BUDGET_DELTA)
    rows = tuple(shares)
    if not (0 < epsilon <= MOST_BUDGET and 0 < delta < 1) or (rows and not found):
        raise _damaged(known or path)
    return Budget(
        content,
        known,
        epsilon,
        delta,
        tuple(Share(task, _curve(r, known), _curve(p, known), _chance(o, known)) for task, r, p, o in rows),
        tuple(Raise(*row) for row in raises),
    )


def _curve(packed: bytes, path: str) -> Curve:
    if len(packed) != _CURVE.size:
        raise _damaged(path)
    curve = _CURVE.unpack(packed)
    if not all(0 <= value < math.inf for value in curve):
        raise _damaged(path)
    return curve


def _chance(overflow: float, path: str) -> float:
    if not 0 <= overflow < 1:
        raise _damaged(path)
    return overflow


def _damaged(path: str) -> LedgerDamaged:
    why = f"the privacy ledger of {path} is damaged: what was spent is not known, so nothing more is sent"
    return LedgerDamaged(why, "put back a copy of discod.sqlite that is not older than the last run")
