"""Median, trimmed mean and multi-Krum over words: against slow oracles in fractions, and their laws."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from discod.aggregators import RobustRule
from discod.errors import LocalError
from discod.ring import Codec, Floats, Words, apply_mean, combine, encode
from discod.robust import BLOCK, join, nearest

Update = list[int]
K = 3  # words of an update


def words(values: Sequence[int]) -> Words:
    return np.array(values, np.int32).view(np.uint32)


def result(updates: Sequence[Sequence[int]], rule: RobustRule, bits: int = 20) -> list[Fraction]:
    """What the rule says, exactly."""
    out = np.empty(len(updates[0]), np.uint32)
    hash_ = join([words(update) for update in updates], out, rule, bits)
    assert hash_ == sha256(out.tobytes()).digest()
    return [Fraction(int(word), rule.counted(len(updates))) for word in out.view(np.int32)]


def slow_median(column: Sequence[int], liars: int) -> Fraction:
    ordered = sorted(column)
    while len(ordered) > 2:
        ordered = ordered[1:-1]
    return Fraction(sum(ordered), len(ordered))


def slow_trimmed(column: Sequence[int], liars: int) -> Fraction:
    left = list(column)
    for _ in range(liars):
        left.remove(min(left))
        left.remove(max(left))
    return Fraction(sum(left), len(left))


def slow_krum(updates: Sequence[Sequence[int]], liars: int) -> list[Fraction]:
    def distance(one: Sequence[int], other: Sequence[int]) -> int:
        return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))

    def score(i: int) -> tuple[int, bytes]:
        others = sorted(distance(updates[i], other) for j, other in enumerate(updates) if j != i)
        return sum(others[: len(updates) - liars - 2]), sha256(words(updates[i]).tobytes()).digest()

    taken = sorted(range(len(updates)), key=score)[: len(updates) - liars]
    return [Fraction(sum(updates[i][k] for i in taken), len(taken)) for k in range(len(updates[0]))]


COORDINATE: dict[str, Callable[[Sequence[int], int], Fraction]] = {
    "median": slow_median,
    "trimmed-mean": slow_trimmed,
}


def oracle(updates: Sequence[Sequence[int]], rule: RobustRule) -> list[Fraction]:
    if rule.name == "multi-krum":
        return slow_krum(updates, rule.liars)
    return [COORDINATE[rule.name](column, rule.liars) for column in zip(*updates, strict=True)]


@st.composite
def a_case(draw: st.DrawFn, names: Sequence[str] = ("median", "trimmed-mean", "multi-krum")) -> tuple[RobustRule, int]:
    """A rule and how many updates it is given."""
    name = draw(st.sampled_from(names))
    rule = RobustRule(name, 0 if name == "median" else draw(st.integers(1, 3)))
    return rule, draw(st.integers(rule.least, rule.least + 4))


def updates_of(count: int, most: int = 1 << 20) -> st.SearchStrategy[list[Update]]:
    return st.lists(st.lists(st.integers(-most, most), min_size=K, max_size=K), min_size=count, max_size=count)


@given(st.data())
def test_each_rule_is_what_its_slow_oracle_says(data: st.DataObject) -> None:
    rule, count = data.draw(a_case())
    updates = data.draw(updates_of(count))
    assert result(updates, rule) == oracle(updates, rule)


@given(st.data())
def test_order_of_the_updates_changes_no_bit(data: st.DataObject) -> None:
    rule, count = data.draw(a_case())
    updates = data.draw(updates_of(count, data.draw(st.sampled_from((1, 1 << 20)))))  # 1: many ties
    assert result(data.draw(st.permutations(updates)), rule) == result(updates, rule)


@given(st.data())
def test_equal_updates_give_their_mean(data: st.DataObject) -> None:
    rule, count = data.draw(a_case())
    (update,) = data.draw(updates_of(1))
    assert result([update] * count, rule) == [Fraction(value) for value in update]


@given(st.data())
def test_fewer_than_half_cannot_leave_the_range_of_the_others(data: st.DataObject) -> None:
    rule, count = data.draw(a_case(("median", "trimmed-mean")))
    liars = (count - 1) // 2 if rule.name == "median" else rule.liars
    honest = data.draw(updates_of(count - liars, 1000))
    false = data.draw(st.lists(updates_of(1, (1 << 31) - 1), min_size=liars, max_size=liars))
    found = result([*honest, *(update for (update,) in false)], rule)
    for value, column in zip(found, zip(*honest, strict=True), strict=True):
        assert min(column) <= value <= max(column)


@given(st.data())
def test_krum_leaves_out_what_lies_far_off(data: st.DataObject) -> None:
    rule, count = data.draw(a_case(("multi-krum",)))
    honest = data.draw(updates_of(count - rule.liars, 10))
    false = data.draw(st.lists(st.integers(1000, (1 << 31) - 1), min_size=rule.liars, max_size=rule.liars))
    assert result([*honest, *([value] * K for value in false)], rule) == [
        Fraction(sum(column), len(honest)) for column in zip(*honest, strict=True)
    ]


# Worked out by hand.
ROWS = [[1.0, -2.0, 0.5], [2.0, -1.5, 0.25], [4.0, -0.5, 0.75], [3.0, -2.5, 1.0], [60.0, 40.0, -9.0]]
GOLDEN = {
    RobustRule("median"): [3.0, -1.5, 0.5],
    RobustRule("trimmed-mean", 1): [3.0, -4 / 3, 0.5],  # (2+3+4)/3, (-2-1.5-0.5)/3, ...
    RobustRule("multi-krum", 1): [2.5, -1.625, 0.625],  # the first four
}


@pytest.mark.parametrize("rule", GOLDEN, ids=lambda rule: rule.name)
def test_golden_values(rule: RobustRule) -> None:
    assert decoded(ROWS, rule) == pytest.approx(GOLDEN[rule], abs=1e-6)


def test_golden_median_of_an_even_number() -> None:
    """As numpy.median documents it, four rows for two: [6.5, 4.5, 2.5]."""
    rows = [[10.0, 7.0, 4.0], [3.0, 2.0, 1.0]] * 2
    assert decoded(rows, RobustRule("median")) == pytest.approx([6.5, 4.5, 2.5], abs=1e-6)


def decoded(rows: Sequence[Sequence[float]], rule: RobustRule) -> list[float]:
    """Encoded by each peer, joined, applied to a base of zeros."""
    base, codec = np.zeros(len(rows[0]), np.float32), Codec(len(rows), 64.0)
    pieces = [np.empty(base.size, np.uint32) for _ in rows]
    for row, piece in zip(rows, pieces, strict=True):
        encode(np.array(row, np.float32), base, codec, None, piece)
    total, out = np.empty(base.size, np.uint32), np.empty_like(base)
    join(pieces, total, rule, codec.bits)
    apply_mean(base, total, codec, out, rule.counted(len(rows)))
    return [float(value) for value in out]


def test_distances_of_the_largest_words_are_exact() -> None:
    """Two updates differ in their scores by less than float64 could tell, of 76 bits: Python's integers can."""
    top, size = (1 << 29) - 100, 40_000  # 3 blocks
    updates = [np.full(size, side * top, np.int32) for side in (-1, -1, 1, 1, 1)]
    updates[0][-1], updates[1][-1] = top + 5, top + 3
    common = (size - 1) * (2 * top) ** 2
    assert float(common + 25) == float(common + 9)
    taken = nearest([update.view(np.uint32) for update in updates], 1, 29)
    assert (sorted(taken[:3]), taken[3]) == ([2, 3, 4], 1)  # from the second to the others: 4 + common + 9
    updates[0][-1], updates[1][-1] = top + 3, top + 5
    assert nearest([update.view(np.uint32) for update in updates], 1, 29)[3] == 0


def test_blocks_are_joined_each_by_itself() -> None:
    random = np.random.default_rng(5)
    rows = random.integers(-(1 << 20), 1 << 20, (5, 2 * BLOCK + 7)).astype(np.int32)
    out = np.empty(rows.shape[1], np.uint32)
    join([row.view(np.uint32) for row in rows], out, RobustRule("median"), 20)
    assert (out.view(np.int32) == 2 * np.median(rows, axis=0)).all()


def test_words_that_nobody_encodes_are_cut_to_the_bound() -> None:
    lies = [[(1 << 31) - 1], [-(1 << 31)], [5], [7]]
    for rule in (RobustRule("median"), RobustRule("trimmed-mean", 1)):
        assert result(lies, rule, bits=4) == [Fraction(6)]
    alike = [[(1 << 31) - 1]] * 5
    for rule in (RobustRule("median"), RobustRule("trimmed-mean", 1), RobustRule("multi-krum", 1)):
        assert result(alike, rule, bits=28) == [Fraction(1 << 28)]


@pytest.mark.parametrize("rule", [RobustRule("median"), RobustRule("trimmed-mean", 2), RobustRule("multi-krum", 2)])
def test_too_few_updates_are_never_joined(rule: RobustRule) -> None:
    with pytest.raises(LocalError, match="are needed"):
        result([[1]] * (rule.least - 1), rule)


def test_no_order_of_five_changes_what_krum_takes() -> None:
    updates = [[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 0]]  # ties
    found = {tuple(result(list(order), RobustRule("multi-krum", 1))) for order in itertools.permutations(updates)}
    assert len(found) == 1


RULES = [RobustRule("median"), RobustRule("trimmed-mean", 2), RobustRule("multi-krum", 2)]


def learned(rule: RobustRule | None, false: Callable[[Floats], Floats] | None) -> float:
    """Accuracy of a line that ten peers with 60 points each draw in 40 steps; two of them send something false."""
    random = np.random.default_rng(11)
    inputs = random.normal(0, 1, (10, 60, 8)).astype(np.float32)
    labels = np.where(inputs @ np.arange(1, 9, dtype=np.float32) > 0, 1.0, -1.0).astype(np.float32)
    base, codec = np.zeros(8, np.float32), Codec(10, 8.0)
    for _ in range(40):
        pieces = [np.empty(8, np.uint32) for _ in range(10)]
        for peer, piece in enumerate(pieces):
            slope = labels[peer] / (
                1 + np.exp(np.clip(labels[peer] * (inputs[peer] @ base), -50, 50))
            )  # of the logistic loss
            update = (slope @ inputs[peer] / 120).astype(np.float32)
            encode(false(update) if false and peer < 2 else update, np.zeros_like(base), codec, None, piece)
        total, after = np.empty(8, np.uint32), np.empty_like(base)
        if rule is None:
            combine(pieces, total)
        else:
            join(pieces, total, rule, codec.bits)
        apply_mean(base, total, codec, after, rule.counted(10) if rule else 10)
        base = after
    return float(np.mean(np.sign(inputs @ base) == labels))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@pytest.mark.parametrize("factor", [-10.0, -1000.0])
def test_two_of_ten_spoil_a_mean_and_no_robust_rule(rule: RobustRule, factor: float) -> None:
    def false(update: Floats) -> Floats:
        return update * np.float32(factor)

    clean = learned(None, None)
    assert clean > 0.9
    assert learned(None, false) < 0.3
    assert learned(rule, false) > clean - 0.05
