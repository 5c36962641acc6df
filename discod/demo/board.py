"""What the demo's screen knows: one row per peer, made from that peer's events and nothing else. Pure.

The events are the daemons' own (control API); the demo looks at each peer through the same window its user has.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from discod.cli.output import number, size, span, sparkline


@dataclass
class Row:
    """One peer: its data, what it does now, its figures after the last round."""

    name: str
    data: str
    state: str = "starting"
    round: int = 0
    done: float = 0.0  # part of this round's batches
    loss: float | None = None
    accuracy_local: float | None = None
    accuracy: float | None = None
    alone: float | None = None
    bytes_up: int = 0
    paths: list[str] = field(default_factory=list)
    finished: bool = False


class Board:
    """All rows of one run, and the joint accuracy round by round."""

    def __init__(self, rows: Iterable[Row], rounds: int) -> None:
        self.rows = {row.name: row for row in rows}
        self.rounds = rounds
        self.round = 0  # the last one that all its peers finished
        self.accuracies: list[float] = []  # mean over peers, one per round that all peers finished
        self.news: list[str] = []  # lines for a screen that is no terminal; the reader empties it
        self.epsilon: float | None = None  # the largest of all peers so far; None without noise
        self.pushed = self.refused = 0  # updates at a federated buffer
        self._reports: dict[int, dict[str, float | None]] = {}
        self._compiling = False
        self._times: list[float] = []

    def receive(self, name: str, event: dict[str, Any]) -> None:
        """One event of peer `name`'s daemon."""
        row = self.rows[name]
        match event["type"]:
            case "run.waiting":
                row.state = "waiting"
            case "run.compiling":
                row.state = "compiling"
                self._compile()
            case "run.training":
                row.state, row.round = "training", event["round"]
                row.done = event["batches"] / max(1, event["of"])
                row.loss = event["loss"] if event["loss"] is not None else row.loss
            case "run.exchanging":
                row.state, row.done = "exchanging", 1.0
            case "round.finished":
                self._round(row, event)
            case "federated.pushed":
                self.pushed += 1
            case "federated.refused":
                self.refused += 1
            case "round.lost" | "worker.died":
                self.news.append(f"  {name}: {event['type'].replace('.', ' ')} ({event['why']})")
            case "peer.connected":
                row.paths.append(event["path"])
            case "run.finished":
                row.state, row.finished, row.done = "done", True, 1.0

    def _compile(self) -> None:
        if not self._compiling:
            self.news.append("  compiling kernels (once)")
        self._compiling = True

    def _round(self, row: Row, event: dict[str, Any]) -> None:
        row.round, row.bytes_up, row.loss = event["round"], event["bytes_up"], event["loss"]
        row.accuracy_local, row.accuracy = event["accuracy_local"], event["accuracy"]
        if (epsilon := event.get("epsilon")) is not None:
            self.epsilon = max(epsilon, self.epsilon or 0.0)
        reports = self._reports.setdefault(event["round"], {})
        reports[row.name] = event["accuracy"]
        if len(reports) == event["peers"]:
            measured = [accuracy for accuracy in reports.values() if accuracy is not None]
            if measured:
                self.accuracies.append(sum(measured) / len(measured))
            self._times.append(event["time"])
            self.round = max(self.round, event["round"])
            self.news.append(self.round_line())

    @property
    def eta_seconds(self) -> float | None:
        """Time to the last round at the pace of the last few."""
        recent = self._times[-6:]
        if len(recent) < 2:
            return None
        return (self.rounds - self.round) * (recent[-1] - recent[0]) / (len(recent) - 1)

    @property
    def finished(self) -> bool:
        """Whether every peer's run ended."""
        return all(row.finished for row in self.rows.values())

    def round_line(self) -> str:
        """The round, the joint accuracy and its course on one line."""
        latest = self.accuracies[-1] if self.accuracies else None
        losses = [row.loss for row in self.rows.values() if row.loss is not None]
        loss = sum(losses) / len(losses) if losses else None
        eta = "" if self.eta_seconds is None else f"  eta {span(self.eta_seconds)}"
        parts = [f"round {self.round}/{self.rounds}", f"loss {number(loss)}"]
        if latest is not None:  # with noise, no row is kept to measure on
            parts.append(f"joint accuracy {number(latest)} {sparkline(self.accuracies)}")
        if self.epsilon is not None:
            parts.append(f"epsilon {self.epsilon:.2f}")
        return "  ".join(parts) + eta

    def table(self) -> list[list[str]]:
        """The cells of all rows, for HEAD."""
        return [_cells(row) for row in self.rows.values()]


HEAD = ("peer", "data", "state", "step", "loss", "local acc", "joint acc", "alone", "sent", "path")
BAR = 8  # characters of the step bar


def _cells(row: Row) -> list[str]:
    filled = round(row.done * BAR)
    path = "/".join(sorted(set(row.paths))) or "—"
    return [
        row.name,
        row.data,
        row.state,
        "█" * filled + "░" * (BAR - filled),
        number(row.loss),
        number(row.accuracy_local, 2),
        number(row.accuracy, 2),
        number(row.alone, 2),
        size(row.bytes_up),
        path,
    ]
