"""What the parts of the store stand on: the database and the state directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from discod.store.database import Database


class Shelf:
    """The open state directory."""

    def __init__(self, directory: Path, database: Database) -> None:
        self.directory = directory
        self.database = database

    def close(self) -> None:
        """Close the database."""
        self.database.close()


def insert(table: str, row: Struct, *, conflict: str = "REPLACE", **more: Any) -> tuple[str, tuple[Any, ...]]:
    """Return the statement and values that put a row struct, and further columns, into a table of ours."""
    columns = {**more, **{name: column(getattr(row, name)) for name in row.__struct_fields__}}
    marks = ", ".join("?" * len(columns))
    return f"INSERT OR {conflict} INTO {table} ({', '.join(columns)}) VALUES ({marks})", tuple(columns.values())  # noqa: S608  # our names only


def column(value: Any) -> Any:
    """Return a field as SQLite keeps it: collections as JSON text, the rest as it is."""
    return msgspec.json.encode(value).decode() if isinstance(value, tuple | dict | list) else value
