"""The demo's screen: a table drawn over itself on a terminal, one line per round elsewhere. Drawn synchronously.

Results never come through here; on stdout they stay alone, so that the last line is what a program reads.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from discod.demo.board import HEAD, Board


class Screen(Protocol):
    """Where the demo says what happens."""

    def say(self, text: str) -> None:
        """A line that stays."""

    def draw(self, board: Board) -> None:
        """The board as it is now."""


class Lines:
    """For pipes and logs: what is said, and one line per round, on stderr."""

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def draw(self, board: Board) -> None:
        while board.news:
            self.say(board.news.pop(0))


class Table:
    """For a terminal: the board drawn over itself, said lines above it."""

    def __init__(self, live: object) -> None:
        from rich.live import Live

        assert isinstance(live, Live)
        self._live = live

    def say(self, text: str) -> None:
        self._live.console.print(text, highlight=False, markup=False)

    def draw(self, board: Board) -> None:
        from rich.console import Group
        from rich.table import Table as Grid
        from rich.text import Text

        grid = Grid(box=None, pad_edge=True, header_style="bold")
        for name in HEAD:
            grid.add_column(name, no_wrap=True)
        for cells in board.table():
            grid.add_row(*cells)
        for line in board.news:
            if not line.startswith("round"):
                self.say(line)
        board.news.clear()
        self._live.update(Group(grid, Text(" " + board.round_line())), refresh=True)


@contextmanager
def open_screen(live: bool, color: bool = True) -> Iterator[Screen]:
    """The screen of the block: a live table, or lines."""
    if not live:
        yield Lines()
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(no_color=not color), auto_refresh=False, transient=False) as drawn:
        yield Table(drawn)
