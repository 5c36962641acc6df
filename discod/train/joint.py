"""Joint metrics: how the model of a round does on the validation rows of all its peers, as words of the update.

    words   correct, loss high, loss low, rows      uint32 (4,), between the vector and its weight

Counts are whole numbers; the loss, summed over the rows, is one in units of 2^-8, written as two digits to the base
2^20. So the sums over up to 255 peers are exact and no word overflows. What is measured is the state that the round
starts from: all peers hold it, and nobody waits for a measurement. Whoever has not measured it sends zeros.

Nobody can tell whether a peer speaks the truth about rows that only it sees: sums that no peers can make count as
none, and a liar can bend the rest. What was measured of a state is sent once (Workshop). Pure.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from discod.train.totals import Totals

Words = npt.NDArray[np.uint32]

METRIC_WORDS = 4
MOST_ROWS = 1 << 24  # of a peer; one that has more counts as if it had so many
MOST_LOSS = 255.0  # of a row, on average
UNIT = 1 << 8
BASE = 1 << 20


def metric_words(totals: Totals | None) -> Words:
    """(4,) what a peer says; zeros when it has nothing to say, or a loss that is no number."""
    if totals is None or not totals.rows or not math.isfinite(totals.loss):
        return np.zeros(METRIC_WORDS, np.uint32)
    rows = min(totals.rows, MOST_ROWS)
    correct = totals.correct * rows // totals.rows
    loss = round(min(max(totals.mean_loss, 0.0), MOST_LOSS) * rows * UNIT)
    return np.array([correct, loss // BASE, loss % BASE, rows], np.uint32)


def joint_totals(words: Words, peers: int) -> Totals | None:
    """What the words of `peers` say together, (4,); None when nobody measured, or no such peers can have said it."""
    correct, high, low, rows = (int(word) for word in words)
    loss = (high * BASE + low) / UNIT
    if not 0 < rows <= peers * MOST_ROWS or correct > rows or low >= peers * BASE or loss > (MOST_LOSS + 1) * rows:
        return None
    return Totals(loss, correct, rows)
