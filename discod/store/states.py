"""Certified joint states, the working checkpoint and the spent records of tasks (protocol.md 5, 6.6).

    save_candidate   joint state on disk, fsynced       -> only now may Done be signed
    certify          one transaction: headers and base  -> only now is it served
    spend            one transaction                    -> only now may the Manifest leave
    save_working     parameters, base and batch counter in one file, replaced as a whole

Vectors are files named by hashes that we computed, never by anything received. A kill between any two steps leaves the
old base with its file; candidates that nothing certified are few and go with the next certificate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from discod.errors import BadData, LocalError
from discod.store.budgets import amend, book
from discod.store.files import make_directory
from discod.store.rows import Amend, Base, Charge, Header, SpentRow, Vectors, Working
from discod.store.shelf import Shelf
from discod.store.tensors import Arrays, load_tensors, save_tensors

KEPT_ROUNDS = 64  # headers kept for the fork rule
KEPT_CANDIDATES = 4  # per task, newest first
NO_INFO: Mapping[str, str] = MappingProxyType({})


class States(Shelf):
    """Joint states by hash, one base per task, one working checkpoint per task."""

    def save_candidate(self, task: bytes, state: bytes, vectors: Arrays, info: Mapping[str, str] = NO_INFO) -> None:
        """Put a joint state on disk under its hash, computed by us; a state that is there already is not rewritten.

        Raises: UserError (disk-full), PermissionProblem; base and earlier candidates stay as they were.
        """
        path = self._state_path(task, state)
        if not path.exists():
            make_directory(path.parent.parent)
            make_directory(path.parent)
            save_tensors(path, vectors, info)
        self._drop_states(task, newest=state, keep=KEPT_CANDIDATES)

    def load_state(self, task: bytes, state: bytes) -> tuple[Vectors, dict[str, str]] | None:
        """Return a saved joint state, None when it is not here. The caller hashes it. Raises: BadData (damaged)."""
        path = self._state_path(task, state)
        return load_tensors(path) if path.exists() else None

    def certify(self, task: bytes, headers: Sequence[Header], change: Amend | None = None) -> None:
        """Adopt the last header's state as base, in one transaction; keep the headers of the last 64 rounds.

        `change` corrects what was charged for its update, in the same transaction.
        Raises: LocalError when that state was not saved first, LedgerDamaged.
        """
        tip = headers[-1]
        if not self._state_path(task, tip.state).exists():
            raise LocalError("a state is saved before it becomes the base")
        with self.database.transaction() as connection:
            rows = [(task, h.state, h.parent, h.round, h.certificate) for h in headers]
            connection.executemany("INSERT OR REPLACE INTO header VALUES (?, ?, ?, ?, ?)", rows)
            connection.execute("INSERT OR REPLACE INTO base VALUES (?, ?)", (task, tip.state))
            if change is not None:
                amend(connection, task, change)
            oldest = (task, tip.round - KEPT_ROUNDS)
            connection.execute("DELETE FROM header WHERE task = ? AND round <= ?", oldest)
        self._drop_states(task, newest=tip.state, keep=0)

    def headers(self, task: bytes) -> list[Header]:
        """Return the kept headers, oldest round first; branches that lost are among them."""
        sql = "SELECT state, parent, round, certificate FROM header WHERE task = ? ORDER BY round, state"
        return [Header(*row) for row in self.database.rows(sql, task)]

    def base(self, task: bytes) -> Header | None:
        """Return the header of the base, None before the first certificate."""
        sql = "SELECT h.state, parent, round, certificate FROM header h JOIN base USING (task, state) WHERE task = ?"
        row = self.database.row(sql, task)
        return Header(*row) if row else None

    def load_base(self, task: bytes) -> Base | None:
        """Return the last certified joint state, None before the first. Raises: BadData (damaged)."""
        header = self.base(task)
        if header is None:
            return None
        found = self.load_state(task, header.state)
        if found is None:
            why = f"the certified model of round {header.round} is missing: {self._state_path(task, header.state)}"
            raise BadData(why, "put it back, or move the state directory away", code="damaged")
        return Base(header, *found)

    def save_working(
        self, task: bytes, vectors: Arrays, *, base: bytes, batches: int, info: Mapping[str, str] = NO_INFO
    ) -> None:
        """Replace the working checkpoint. Raises: UserError (disk-full); the previous one then stays."""
        path = self._working_path(task)
        make_directory(path.parent)
        save_tensors(path, vectors, {**info, "base": base.hex(), "batches": str(batches)})

    def load_working(self, task: bytes) -> Working | None:
        """Return the working checkpoint, None when there is none. Raises: BadData (damaged)."""
        path = self._working_path(task)
        if not path.exists():
            return None
        vectors, info = load_tensors(path)
        try:
            return Working(bytes.fromhex(info.pop("base")), int(info.pop("batches")), vectors, info)
        except (KeyError, ValueError):
            raise BadData(f"{path} is damaged: no base or batch counter", f"move {path} away", code="damaged") from None

    def spend(self, task: bytes, row: SpentRow, charge: Charge | None = None) -> None:
        """Note that an update is being sent and charge its data for it: both durable when this returns, or neither.

        Raises: BudgetExhausted, LedgerDamaged, UserError (disk-full), LocalError for a second of a rid.
        """
        sql = "INSERT INTO spent (task, base, batches, rid, charge, uh) VALUES (?, ?, ?, ?, ?, ?)"
        with self.database.transaction() as connection:
            cost = row.charge if charge is None else book(connection, task, charge)
            connection.execute(sql, (task, row.base, row.batches, row.rid, cost, row.uh))

    def note_consent(self, task: bytes, rid: bytes, uh: bytes) -> None:
        """Add what was consented to, to the spent record of a round."""
        self.database.write("UPDATE spent SET uh = ? WHERE task = ? AND rid = ?", uh, task, rid)

    def spent(self, task: bytes, base: bytes | None = None) -> list[SpentRow]:
        """Return the spent records of a task, under one base or all, in the order of sending."""
        sql = "SELECT base, batches, rid, charge, uh FROM spent WHERE task = ?1 AND (?2 IS NULL OR base = ?2)"
        return [SpentRow(*row) for row in self.database.rows(f"{sql} ORDER BY rowid", task, base)]

    def _drop_states(self, task: bytes, *, newest: bytes, keep: int) -> None:
        """Remove states other than the base, `newest` and the `keep` youngest of the rest."""
        base = self.base(task)
        kept = {newest.hex(), base.state.hex() if base else ""}
        others = [p for p in self._state_path(task, newest).parent.glob("*.safetensors") if p.stem not in kept]
        for path in sorted(others, key=lambda p: p.stat().st_mtime_ns, reverse=True)[keep:]:
            path.unlink(missing_ok=True)

    def _state_path(self, task: bytes, state: bytes) -> Path:
        assert len(task) == len(state) == 32
        return self.directory / "states" / task.hex() / f"{state.hex()}.safetensors"

    def _working_path(self, task: bytes) -> Path:
        assert len(task) == 32
        return self.directory / "working" / f"{task.hex()}.safetensors"
