"""Meshes, their records, data sets, tasks, runs and what was measured: rows in the database."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from discod.store.files import make_directory
from discod.store.rows import DatasetRow, FigureRow, MeshRow, RunRow, TaskRow
from discod.store.shelf import Shelf, insert


class Meshes(Shelf):
    """Meshes, their signed records, their root keys' places, and numbers that never go back."""

    def save_mesh(self, mesh: MeshRow) -> None:
        """Add a mesh, or change its name and signaling nodes; its records stay."""
        self.database.write(
            "INSERT INTO mesh VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET name = excluded.name, "
            "signaling = excluded.signaling, signaling_key = excluded.signaling_key",
            mesh.id,
            mesh.root,
            mesh.name,
            msgspec.json.encode(mesh.signaling).decode(),
            mesh.signaling_key,
            mesh.joined,
        )

    def meshes(self) -> list[MeshRow]:
        """Return all meshes, oldest first."""
        rows = self.database.rows(
            "SELECT id, root, name, signaling, signaling_key, joined FROM mesh ORDER BY joined, id"
        )
        return [
            MeshRow(row[0], row[1], row[2], msgspec.json.decode(row[3], type=tuple[str, ...]), row[4], row[5])
            for row in rows
        ]

    def remove_mesh(self, mesh: bytes) -> None:
        """Forget a mesh and its records; its root key file stays."""
        self.database.write("DELETE FROM mesh WHERE id = ?", mesh)

    def save_records(self, mesh: bytes, records: Iterable[bytes]) -> None:
        """Make `records` the signed records of a mesh, in one transaction; unchanged ones are not rewritten."""
        wanted = {hashlib.sha256(record).digest(): record for record in records}
        with self.database.transaction() as connection:
            known = {row[0] for row in connection.execute("SELECT hash FROM record WHERE mesh = ?", (mesh,))}
            gone = [(mesh, name) for name in known - wanted.keys()]
            connection.executemany("DELETE FROM record WHERE mesh = ? AND hash = ?", gone)
            new = [(mesh, name, record) for name, record in wanted.items() if name not in known]
            connection.executemany("INSERT INTO record VALUES (?, ?, ?)", new)

    def records(self, mesh: bytes) -> list[bytes]:
        """Return the signed records of a mesh, in no order."""
        return [row[0] for row in self.database.rows("SELECT data FROM record WHERE mesh = ?", mesh)]

    def root_key_path(self, mesh: bytes) -> Path:
        """Return where the root key of a mesh of ours lies (Identity.create and load use it); makes the directory."""
        make_directory(self.directory / "roots")
        return self.directory / "roots" / f"{mesh.hex()}.key"

    def next_number(self, name: str, at_least: int = 1) -> int:
        """Return a number higher than any given before under this name, and not below `at_least`; durable."""
        with self.database.transaction() as connection:
            connection.execute(
                "INSERT INTO number VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = max(value + 1, ?2)",
                (name, at_least),
            )
            return int(connection.execute("SELECT value FROM number WHERE name = ?", (name,)).fetchone()[0])


class Datasets(Shelf):
    """Local data sets by alias."""

    def save_dataset(self, row: DatasetRow) -> None:
        """Add a data set, or replace the one of that alias."""
        sql, values = insert("dataset", row)
        self.database.write(sql, *values)

    def datasets(self) -> list[DatasetRow]:
        """Return all data sets by alias."""
        sql = "SELECT alias, path, sample, content, rows, about, added FROM dataset ORDER BY alias"
        return [DatasetRow(*row) for row in self.database.rows(sql)]

    def dataset(self, alias: str) -> DatasetRow | None:
        """Return the data set of an alias."""
        return next((row for row in self.datasets() if row.alias == alias), None)

    def remove_dataset(self, alias: str) -> None:
        """Forget an alias; the data stays where it is."""
        self.database.write("DELETE FROM dataset WHERE alias = ?", alias)


class Tasks(Shelf):
    """Tasks and their acceptance here."""

    def save_task(self, row: TaskRow) -> None:
        """Add a task, or replace what is known of it."""
        sql, values = insert("task", row)
        self.database.write(sql, *values)

    def tasks(self) -> list[TaskRow]:
        """Return all tasks, oldest first."""
        sql = "SELECT id, mesh, name, spec, accepted, data, state, added FROM task ORDER BY added, id"
        return [
            TaskRow(row[0], row[1], row[2], row[3], bool(row[4]), row[5], row[6], row[7])
            for row in self.database.rows(sql)
        ]

    def task(self, task: bytes) -> TaskRow | None:
        """Return one task."""
        return next((row for row in self.tasks() if row.id == task), None)

    def accept_task(self, task: bytes, data: str, state: str = "accepted") -> None:
        """Note that this peer takes part with a data set."""
        self.database.write("UPDATE task SET accepted = 1, data = ?, state = ? WHERE id = ?", data, state, task)

    def set_task_state(self, task: bytes, state: str) -> None:
        """Note what became of a task."""
        self.database.write("UPDATE task SET state = ? WHERE id = ?", state, task)


class Runs(Shelf):
    """Executions of tasks and their figures."""

    def start_run(self, task: bytes, data: str, now: float) -> int:
        """Begin a run and return its number, never used again."""
        with self.database.transaction() as connection:
            sql = "INSERT INTO run (task, data, state, started) VALUES (?, ?, 'running', ?)"
            number = connection.execute(sql, (task, data, now)).lastrowid
        assert number is not None
        return number

    def end_run(self, number: int, state: str, now: float) -> None:
        """Note how a run ended."""
        self.database.write("UPDATE run SET state = ?, ended = ? WHERE number = ?", state, now, number)

    def runs(self) -> list[RunRow]:
        """Return all runs, oldest first."""
        sql = "SELECT number, task, data, state, started, ended FROM run ORDER BY number"
        return [RunRow(*row) for row in self.database.rows(sql)]

    def add_figures(self, number: int, round_number: int, now: float, figures: Mapping[str, Any]) -> int:
        """Add what was measured to a run and return its step, counted from 1. Figures must be JSON-able."""
        text = msgspec.json.encode(figures).decode()
        with self.database.transaction() as connection:
            count = "SELECT coalesce(max(step), 0) + 1 FROM figure WHERE run = ?"
            step = int(connection.execute(count, (number,)).fetchone()[0])
            connection.execute("INSERT INTO figure VALUES (?, ?, ?, ?, ?)", (number, step, round_number, now, text))
        return step

    def figures(self, number: int, since: int = 0) -> list[FigureRow]:
        """Return what was measured in a run after step `since`."""
        sql = "SELECT step, round, time, figures FROM figure WHERE run = ? AND step > ? ORDER BY step"
        return [
            FigureRow(row[0], row[1], row[2], msgspec.json.decode(row[3]))
            for row in self.database.rows(sql, number, since)
        ]
