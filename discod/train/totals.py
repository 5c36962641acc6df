"""What training and measuring add up. Pure."""

from __future__ import annotations

from typing import NamedTuple


class Totals(NamedTuple):
    """Sums over `rows` rows: of the loss, and of the rows that were classified correctly."""

    loss: float
    correct: int
    rows: int

    @property
    def mean_loss(self) -> float:
        return self.loss / self.rows if self.rows else 0.0

    @property
    def accuracy(self) -> float:
        return self.correct / self.rows if self.rows else 0.0
