"""The one SQLite file: opened, brought to the current schema, and used by one thread at a time.

WAL with synchronous=FULL: what a transaction committed survives a power cut, and the command line reads while the
daemon writes. A migration is the next entry of MIGRATIONS; entries that were released never change.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from discod.errors import BadData, LocalError, NewerState, PermissionProblem
from discod.store.files import disk_full, saving
from discod.store.schema import MIGRATIONS

BUSY_SECONDS = 10  # how long another process may hold the file


class Database:
    """A connection that any thread may use; transactions do not mix."""

    def __init__(self, path: Path) -> None:
        """Open or make the file and migrate it. Raises: NewerState, BadData (damaged), PermissionProblem."""
        self.path = path
        with saving(path):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._lock = threading.RLock()
        with _sentences(path):
            self._connection = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the connection; committed transactions are safe already."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything in the block is committed at its end, or nothing. Raises: UserError (disk-full)."""
        with self._lock, _sentences(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def write(self, sql: str, *values: Any) -> None:
        """Run one statement in a transaction of its own."""
        with self.transaction() as connection:
            connection.execute(sql, values)

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        with self._lock, _sentences(self.path):
            return self._connection.execute(sql, values).fetchall()

    def row(self, sql: str, *values: Any) -> tuple[Any, ...] | None:
        """Return the first row of a query."""
        rows = self.rows(sql, *values)
        return rows[0] if rows else None

    def _prepare(self) -> None:
        with _sentences(self.path):
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                self._connection.execute(f"PRAGMA {pragma}")
        with self.transaction() as connection:
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
            if version > len(MIGRATIONS):
                why = f"{self.path} was written by a newer discod (schema {version}, this one knows {len(MIGRATIONS)})"
                raise NewerState(why, "install the newer discod again; nothing was changed")
            for script in MIGRATIONS[version:]:
                for statement in script:
                    connection.execute(statement)
            if version < len(MIGRATIONS):  # else opening it writes nothing: it is readable on a full disk
                connection.execute(f"PRAGMA user_version={len(MIGRATIONS)}")


@contextmanager
def _sentences(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise LocalError(f"the store refuses a row: {error}") from error
    except sqlite3.DatabaseError as error:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith("SQLITE_FULL"):
            raise disk_full(path) from None
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            raise BadData(
                f"{path} is damaged: {error}", f"put back a copy, or move {path} away", code="damaged"
            ) from None
        if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_IOERR", "SQLITE_BUSY")):
            raise PermissionProblem(f"cannot use {path}: {error}", f"ls -l {path}") from None
        raise LocalError(f"the store: {error}") from error
