"""Joint metrics as words: exact sums against whole numbers, and what nobody can have said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from discod.train.joint import BASE, MOST_LOSS, MOST_ROWS, UNIT, joint_totals, metric_words
from discod.train.totals import Totals


@st.composite
def totals(draw: st.DrawFn) -> Totals:
    rows = draw(st.integers(1, MOST_ROWS))
    return Totals(draw(st.floats(0, MOST_LOSS)) * rows, draw(st.integers(0, rows)), rows)


@given(st.lists(totals(), min_size=1, max_size=255))
def test_sums_of_words_are_sums_of_counts(said: list[Totals]) -> None:
    words = np.add.reduce([metric_words(one) for one in said], dtype=np.uint32)
    found = joint_totals(words, len(said))
    assert found is not None
    assert (found.correct, found.rows) == (sum(one.correct for one in said), sum(one.rows for one in said))
    assert abs(found.loss - sum(one.loss for one in said)) <= len(said) * (0.5 / UNIT + 1e-6)


def test_the_largest_words_of_255_peers_do_not_overflow() -> None:
    most = metric_words(Totals(MOST_LOSS * MOST_ROWS, MOST_ROWS, MOST_ROWS))
    assert [255 * int(word) < 1 << 32 for word in most] == [True] * 4
    assert joint_totals(most * np.uint32(255), 255) == Totals(
        MOST_LOSS * MOST_ROWS * 255, MOST_ROWS * 255, MOST_ROWS * 255
    )


def test_one_who_has_more_rows_counts_as_so_many_in_the_same_proportion() -> None:
    found = joint_totals(metric_words(Totals(6.0 * MOST_ROWS, 3 * MOST_ROWS, 4 * MOST_ROWS)), 1)
    assert found == Totals(1.5 * MOST_ROWS, 3 * MOST_ROWS // 4, MOST_ROWS)


@pytest.mark.parametrize("nothing", [None, Totals(0.0, 0, 0), Totals(float("nan"), 1, 2), Totals(float("inf"), 1, 2)])
def test_nothing_measured_is_zeros_and_zeros_are_nothing(nothing: Totals | None) -> None:
    assert metric_words(nothing).tolist() == [0] * 4
    assert joint_totals(metric_words(nothing), 3) is None


@pytest.mark.parametrize(
    "words",
    [(8, 0, 0, 7), (1, 0, 0, 3 * MOST_ROWS + 1), (1, 0, 3 * BASE, 1 << 20), (1, 0, 257 * UNIT, 1), (1, 5, 0, 9)],
)
def test_sums_that_no_three_peers_can_make_count_as_none(words: tuple[int, ...]) -> None:
    assert joint_totals(np.array(words, np.uint32), 3) is None
