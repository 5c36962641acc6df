"""The board shows what the daemons' events say."""

from __future__ import annotations

from typing import Any

import pytest

from discod.demo.board import HEAD, Board, Row


def finished(round_: int, accuracy: float, time: float) -> dict[str, Any]:
    figures = {"loss": 0.5, "accuracy_local": accuracy - 0.1, "accuracy": accuracy, "bytes_up": 1000 * round_}
    return {"type": "round.finished", "round": round_, "rounds": 4, "peers": 2, "time": time, **figures}


@pytest.fixture
def board() -> Board:
    return Board([Row("a", "479 (0-3)"), Row("b", "479 (3-6)")], 4)


def test_round_counts_when_all_its_peers_finished(board: Board) -> None:
    board.receive("a", finished(1, 0.4, 10.0))
    assert (board.round, board.news) == (0, [])
    board.receive("b", finished(1, 0.6, 11.0))
    assert board.round == 1
    assert board.accuracies == [0.5]
    assert board.news == ["round 1/4  loss 0.500  joint accuracy 0.500 ▅"]


def test_eta_is_the_pace_of_the_last_rounds(board: Board) -> None:
    assert board.eta_seconds is None
    for round_ in (1, 2):
        board.receive("a", finished(round_, 0.5, 10.0 * round_))
        board.receive("b", finished(round_, 0.5, 10.0 * round_))
    assert board.eta_seconds == 20.0
    assert "eta 20 s" in board.round_line()


def test_compiling_is_said_once(board: Board) -> None:
    board.receive("a", {"type": "run.compiling"})
    board.receive("b", {"type": "run.compiling"})
    assert board.news == ["  compiling kernels (once)"]
    assert board.rows["b"].state == "compiling"


def test_row_shows_training_exchange_path_and_end(board: Board) -> None:
    board.receive("a", {"type": "peer.connected", "peer": "b", "path": "direct"})
    board.receive("a", {"type": "run.training", "round": 3, "batches": 6, "of": 8, "loss": 0.25})
    row = dict(zip(HEAD, board.table()[0], strict=True))
    assert (row["state"], row["step"], row["loss"], row["path"]) == ("training", "██████░░", "0.250", "direct")
    board.receive("a", {"type": "run.exchanging", "phase": "summing"})
    assert board.table()[0][2:4] == ["exchanging", "████████"]
    assert not board.finished
    for name in ("a", "b"):
        board.receive(name, {"type": "run.finished"})
    assert board.finished


def test_lost_round_and_dead_worker_are_news(board: Board) -> None:
    board.receive("b", {"type": "round.lost", "why": "too few answered"})
    board.receive("b", {"type": "worker.died", "why": "killed"})
    assert board.news == ["  b: round lost (too few answered)", "  b: worker died (killed)"]
