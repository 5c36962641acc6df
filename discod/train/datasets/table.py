"""Numeric CSV: one header line, then one row a line; every cell a number. An empty cell is an error, not a zero."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from discod.errors import BadData


def read_header(path: Path) -> list[str]:
    """The column names. Raises: BadData."""
    return _read(path)[0]


def read_table(path: Path, inputs: tuple[str, ...], labels: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(inputs (n, columns), labels (n,)): the named columns, by default the last as label and all others as inputs.

    Raises: BadData naming the row (the first after the header is row 1) and the column.
    """
    header, rows = _read(path)
    label = labels or header[-1]
    columns = inputs or tuple(name for name in header if name != label)
    for name in (*columns, label):
        if name not in header:
            why = f"{path} has no column `{name}`; it has {', '.join(header[:20])}"
            raise BadData(why, "name the columns in the header line as the task does", code="bad-data")
    order = [header.index(name) for name in (*columns, label)]
    values = np.array([_numbers(path, number, row, header, order) for number, row in enumerate(rows, 1)], np.float64)
    values = values.reshape(len(rows), len(order))
    return values[:, :-1], values[:, -1]


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [row for row in csv.reader(file) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadData(f"{path} is not a text table: {error}", "save it as CSV in UTF-8", code="bad-data") from error
    if not lines:
        raise BadData(f"{path} is empty", "give a CSV file with a header line", code="bad-data")
    header = [name.strip() for name in lines[0]]
    if len(set(header)) != len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise BadData(f"{path} has two columns named `{twice}`", "rename one in the header line", code="bad-data")
    return header, lines[1:]


def _numbers(path: Path, number: int, row: list[str], header: list[str], order: list[int]) -> list[float]:
    if len(row) != len(header):
        why = f"{path}: row {number} has {len(row)} cells, the header has {len(header)}"
        raise BadData(why, "mend that row; the file may be cut off there", code="bad-data")
    return [_number(path, number, row[i], header[i]) for i in order]


def _number(path: Path, number: int, cell: str, column: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        why = f"{path}: row {number}, column `{column}`: `{cell[:40]}` is not a number"
        raise BadData(
            why, "only numbers can be read: fill empty cells, number the categories", code="bad-data"
        ) from None
    if value - value != 0:
        why = f"{path}: row {number}, column `{column}`: `{cell}` is not a finite number"
        raise BadData(why, "fill or remove such rows", code="not-finite")
    return value
