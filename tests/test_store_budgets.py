"""The privacy ledger: charged with the spent record or not at all, never smaller than what left, damage refused."""

from __future__ import annotations

import math
import os
import re
import signal
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discod.errors import BudgetExhausted, Exit, LedgerDamaged, LocalError, UsageError
from discod.privacy.accountant import NOTHING, ORDERS, add, epsilon_of, gaussian, sampled_gaussian
from discod.store import Charge, DatasetRow, SpentRow, Store, open_store
from discod.store.budgets import BUDGET, BUDGET_DELTA, MOST_BUDGET
from discod.store.schema import MIGRATIONS
from tests.states import OTHER, TASK, opened, state_of

CONTENT, PATH = b"c" * 32, "/srv/scans.npz"
Q, Z = 0.2672, 3.3  # a step of the demo's


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path / "state") as store:
        yield store


def spent_row(number: int) -> SpentRow:
    return SpentRow(state_of(1), 4 * number, number.to_bytes(32, "big"), 0.0, None)


def steps(number: int, content: bytes = CONTENT, path: str = PATH) -> Charge:
    """So many steps of the demo, record-level."""
    return Charge(content, path, sampled_gaussian(Q, Z, number), NOTHING)


def epsilon(number: int) -> float:
    return epsilon_of(sampled_gaussian(Q, Z, number), BUDGET_DELTA)


def test_a_charge_is_kept_with_its_spent_record(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        assert (store.budget(CONTENT).epsilon, store.budget(CONTENT).spent) == (BUDGET, 0.0)
        store.spend(TASK, spent_row(1), steps(4))
        store.spend(TASK, spent_row(2), steps(8))
    with opened(tmp_path) as store:
        budget = store.budget(CONTENT)
        assert budget.path == PATH
        assert budget.spent == pytest.approx(epsilon(12))
        assert budget.left == pytest.approx(BUDGET - epsilon(12))
        assert [row.charge for row in store.spent(TASK)] == pytest.approx([epsilon(4), epsilon(12) - epsilon(4)])
        assert [share.task for share in budget.shares] == [TASK]


def test_an_update_without_noise_costs_nothing(store: Store) -> None:
    store.spend(TASK, spent_row(1))
    assert store.budgets() == []
    assert [row.charge for row in store.spent(TASK)] == [0.0]


def test_tasks_add_curves_and_not_epsilons(store: Store) -> None:
    store.spend(TASK, spent_row(1), steps(40))
    store.spend(OTHER, spent_row(2), steps(60))
    (budget,) = store.budgets()
    assert budget.spent == pytest.approx(epsilon(100))
    alone = [budget.cost_of(share) for share in budget.shares]
    assert alone == pytest.approx([epsilon(40), epsilon(60)])
    assert sum(alone) > budget.spent * 1.1


def test_a_release_that_hides_a_peer_costs_the_records_too(store: Store) -> None:
    curve = gaussian(10, 20)
    store.spend(TASK, spent_row(1), steps(40))
    store.spend(TASK, spent_row(2), Charge(CONTENT, PATH, curve, curve))
    (share,) = store.budget(CONTENT).shares
    assert share.record == pytest.approx(add(sampled_gaussian(Q, Z, 40), curve))
    assert share.peer == curve
    assert store.budget(CONTENT).spent == pytest.approx(epsilon_of(share.record, BUDGET_DELTA))


def test_an_alias_is_no_budget_and_content_is(store: Store) -> None:
    store.save_dataset(DatasetRow("scans", PATH, None, CONTENT, 479, "", 1.0))
    store.spend(TASK, spent_row(1), steps(40))
    store.remove_dataset("scans")
    store.save_dataset(DatasetRow("fresh", "/srv/copy.npz", None, CONTENT, 479, "", 2.0))
    assert store.budget(CONTENT).spent == pytest.approx(epsilon(40))
    store.spend(TASK, spent_row(2), steps(40, path="/srv/copy.npz"))
    assert store.budget(CONTENT).spent == pytest.approx(epsilon(80))
    assert store.budget(CONTENT).path == "/srv/copy.npz"
    assert store.budget(b"d" * 32).spent == 0.0


def test_a_charge_that_passes_the_budget_is_refused_and_writes_nothing(store: Store) -> None:
    store.spend(TASK, spent_row(1), steps(320))
    assert 7.6 < store.budget(CONTENT).spent < 7.7
    with pytest.raises(BudgetExhausted, match=r"/srv/scans.npz is used up: epsilon 7.64 of 8 is spent") as caught:
        store.spend(TASK, spent_row(2), steps(40))
    assert (caught.value.exit, caught.value.code) == (Exit.BUDGET_EXHAUSTED, "budget-exhausted")
    assert "discod privacy raise" in caught.value.hint
    assert len(store.spent(TASK)) == 1
    assert store.budget(CONTENT).spent == pytest.approx(epsilon(320))
    with pytest.raises(BudgetExhausted):
        store.spend(OTHER, spent_row(2), Charge(b"n" * 32, PATH, gaussian(0.1), NOTHING))
    assert [budget.content for budget in store.budgets()] == [CONTENT]


def test_a_plan_that_costs_the_whole_budget_is_not_stopped_by_rounding(store: Store) -> None:
    whole = sampled_gaussian(Q, Z, 320)
    store.raise_budget(CONTENT, PATH, 9.0, "to be set", 1.0)
    store.database.write("UPDATE budget SET epsilon = ?", epsilon_of(whole, BUDGET_DELTA) - 1e-9)
    for number in range(80):
        store.spend(TASK, spent_row(number), steps(4))
    with pytest.raises(BudgetExhausted):
        store.spend(TASK, spent_row(99), steps(1))


def test_overflow_is_part_of_what_was_spent(store: Store) -> None:
    for number in range(4):
        cost = Charge(CONTENT, PATH, sampled_gaussian(Q, Z, 60), NOTHING, 2.5e-11)
        store.spend(TASK, spent_row(number), cost)
    (share,) = store.budget(CONTENT).shares
    assert share.overflow == pytest.approx(1e-10)
    expected = epsilon_of(sampled_gaussian(Q, Z, 240), BUDGET_DELTA, 1e-10)
    assert store.budget(CONTENT).spent == pytest.approx(expected)
    assert expected > epsilon(240) + 1e-4


def test_a_budget_is_raised_for_a_reason_that_is_kept(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.spend(TASK, spent_row(1), steps(320))
        raised = store.raise_budget(CONTENT, PATH, 16.0, " the board agreed ", 5.0)
        assert raised.epsilon == 16.0
        assert raised.spent == pytest.approx(epsilon(320))
        store.spend(TASK, spent_row(2), steps(40))
        store.raise_budget(CONTENT, PATH, 17.5, "again", 6.0)
    with opened(tmp_path) as store:
        entries = [(r.time, r.before, r.after, r.reason) for r in store.budget(CONTENT).raises]
        assert entries == [(5.0, 8.0, 16.0, "the board agreed"), (6.0, 16.0, 17.5, "again")]
        assert store.budget(CONTENT).epsilon == 17.5


@pytest.mark.parametrize(
    ("to", "reason"),
    [(8.0, "same"), (4.0, "less"), (MOST_BUDGET + 1, "much"), (math.nan, "?"), (16.0, " "), (16.0, "two\nlines")],
)
def test_a_budget_is_never_lowered_nor_raised_without_a_reason(store: Store, to: float, reason: str) -> None:
    with pytest.raises(UsageError):
        store.raise_budget(CONTENT, PATH, to, reason, 1.0)
    assert store.budgets() == []


@pytest.mark.parametrize(
    "damage",
    [
        ("UPDATE share SET record = ?", struct.pack("<3d", 1, 2, 3)),
        ("UPDATE share SET peer = ?", b""),
        ("UPDATE share SET record = ?", struct.pack(f"<{len(ORDERS)}d", *[math.nan] * len(ORDERS))),
        ("UPDATE share SET record = ?", struct.pack(f"<{len(ORDERS)}d", -0.001, *NOTHING[1:])),
        ("UPDATE share SET record = ?", struct.pack(f"<{len(ORDERS)}d", math.inf, *NOTHING[1:])),
        ("UPDATE share SET overflow = ?", -1e-9),
        ("UPDATE budget SET epsilon = ?", 1e9),
        ("UPDATE budget SET delta = ?", 0.0),
    ],
)
def test_a_damaged_ledger_refuses_to_send(store: Store, damage: tuple[str, Any]) -> None:
    store.spend(TASK, spent_row(1), steps(4))
    store.database.write(*damage)
    for ask in (
        lambda: store.spend(TASK, spent_row(2), steps(4)),
        lambda: store.budget(CONTENT),
        lambda: store.budgets(),
        lambda: store.raise_budget(CONTENT, PATH, 16.0, "why", 1.0),
    ):
        with pytest.raises(LedgerDamaged, match="what was spent is not known") as caught:
            ask()
        assert (caught.value.exit, caught.value.code) == (Exit.BAD_DATA, "ledger-damaged")
    assert len(store.spent(TASK)) == 1
    store.spend(OTHER, spent_row(3), steps(4, b"d" * 32))  # other data are not concerned


def test_a_share_without_its_budget_is_damage(store: Store) -> None:
    store.spend(TASK, spent_row(1), steps(4))
    store.database.rows("PRAGMA foreign_keys=OFF")
    store.database.write("DELETE FROM budget")
    with pytest.raises(LedgerDamaged):
        store.spend(TASK, spent_row(2), steps(4))


def test_the_ledger_is_added_to_a_store_of_before(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "discod.sqlite") as old:
        for statement in MIGRATIONS[0]:
            old.execute(statement)
        old.execute("PRAGMA user_version=1")
    old.close()
    with opened(tmp_path) as store:
        store.spend(TASK, spent_row(1), steps(4))
        assert store.budget(CONTENT).spent > 0


charges = st.lists(st.tuples(st.integers(0, 2), st.sampled_from([TASK, OTHER]), st.integers(1, 60)), max_size=12)


@given(charges)
@settings(max_examples=40, deadline=None)
def test_what_is_spent_is_the_sum_of_what_was_accepted_and_never_more_than_the_budget(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[tuple[int, bytes, int]]
) -> None:
    accepted = [0, 0, 0]
    with opened(tmp_path_factory.mktemp("state")) as store:
        for number, (which, task, count) in enumerate(wanted):
            content = bytes([which]) * 32
            before = store.budget(content).spent
            try:
                store.spend(task, spent_row(number), steps(count, content))
                accepted[which] += count
            except BudgetExhausted:
                assert epsilon(accepted[which] + count) > BUDGET
            assert store.budget(content).spent >= before
        for which, count in enumerate(accepted):
            assert store.budget(bytes([which]) * 32).spent == pytest.approx(epsilon(count), abs=1e-9)
            assert store.budget(bytes([which]) * 32).spent <= BUDGET + 1e-5
        assert len(store.spent(TASK)) + len(store.spent(OTHER)) <= len(wanted)


class Killed(BaseException):
    """The process ends here."""


class Traced:
    """A connection that dies before its count-th statement."""

    def __init__(self, real: sqlite3.Connection, count: int) -> None:
        self._real, self.left = real, count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def execute(self, sql: str, values: Any = ()) -> sqlite3.Cursor:
        if sql != "ROLLBACK":
            self.left -= 1
            if self.left < 0:
                raise Killed(sql)
        return self._real.execute(sql, values)


def test_a_kill_between_any_two_steps_never_makes_epsilon_smaller(tmp_path: Path) -> None:
    seen = set()
    for count in range(100):
        directory = tmp_path / str(count)
        store = open_store(directory)
        store.spend(TASK, spent_row(1), steps(40))
        traced = Traced(store.database._connection, count)
        store.database._connection = traced  # type: ignore[assignment]  # what it does is what a kill does
        ended = False
        try:
            store.spend(TASK, spent_row(2), steps(40))
            ended = True
        except Killed:
            pass
        traced.left = 1000
        store.close()
        with opened(directory) as again:
            rows, spent = len(again.spent(TASK)), again.budget(CONTENT).spent
        assert spent == pytest.approx(epsilon(40 * rows))
        assert rows == (2 if ended else 1)
        seen.add(rows)
        if ended:
            break
    assert seen == {1, 2}
    assert count > 5


def test_a_second_spent_record_of_a_round_charges_nothing(store: Store) -> None:
    store.spend(TASK, spent_row(1), steps(40))
    with pytest.raises(LocalError):
        store.spend(TASK, spent_row(1), steps(40))
    assert store.budget(CONTENT).spent == pytest.approx(epsilon(40))


CHILD = """
import sys
from pathlib import Path
from discod.store import open_store
from tests.states import TASK
from tests.test_store_budgets import spent_row, steps
store = open_store(Path(sys.argv[1]))
for number in range(1, 10**6):
    store.spend(TASK, spent_row(number), steps(1))
    print("spent", number, flush=True)
"""


def test_a_process_killed_with_minus_9_has_charged_what_it_sent(tmp_path: Path) -> None:
    for lines in (1, 17):
        directory = tmp_path / str(lines)
        root = Path(__file__).resolve().parent.parent
        command = [sys.executable, "-c", CHILD, str(directory)]
        with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True, env=os.environ) as child:
            assert child.stdout is not None
            said = "".join(child.stdout.readline() for _ in range(lines))
            child.send_signal(signal.SIGKILL)
            said += child.stdout.read()
        sent = max(map(int, re.findall(r"spent (\d+)", said)))
        with opened(directory) as store:
            assert store.budget(CONTENT).spent >= epsilon(sent) - 1e-9
            assert store.budget(CONTENT).spent == pytest.approx(epsilon(len(store.spent(TASK))))
