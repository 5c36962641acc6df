"""The screen: lines on a pipe, a table on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.live import Live

from discod.demo.board import Board, Row
from discod.demo.view import Lines, Table, open_screen


def a_board() -> Board:
    board = Board([Row("clinic-a", "479 (0-3)", alone=0.4), Row("lab-b", "479 (3-6)")], 2)
    for name in board.rows:
        figures = {"loss": 0.5, "accuracy_local": 0.4, "accuracy": 0.6, "bytes_up": 1_200_000}
        board.receive(name, {"type": "round.finished", "round": 1, "rounds": 2, "peers": 2, "time": 1.0, **figures})
    return board


def test_each_line_is_said_once_and_not_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    board = a_board()
    with open_screen(live=False) as screen:
        assert isinstance(screen, Lines)
        screen.draw(board)
        screen.draw(board)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "round 1/2  loss 0.500  joint accuracy 0.600 ▅\n"


def test_table_shows_a_row_per_peer_and_the_round() -> None:
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=True, no_color=True)
    with Live(console=console, auto_refresh=False) as live:
        table = Table(live)
        board = a_board()
        board.news.append("  lab-b: round lost (too few answered)")
        table.draw(board)
    shown = out.getvalue()
    assert "clinic-a" in shown
    assert "1.2 MB" in shown
    assert "joint accuracy 0.600" in shown
    assert "round lost" in shown
    assert board.news == []
