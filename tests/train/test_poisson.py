"""Poisson batches against their definition; and the usual wrong ones, shown to be noticed."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from discod.train.chacha import ChaCha
from discod.train.poisson import BLOCK_MULTIPLE, PoissonBatches, block_rows

KEY = bytes(range(32))
ROWS, Q, STEPS = 60, 0.3, 4000

Draws = NDArray[np.bool_]  # (steps, rows): who was in which batch


def drawn(block: int = ROWS, rows: int = ROWS, probability: float = Q, steps: int = STEPS) -> Draws:
    batches = PoissonBatches(ChaCha(KEY), rows, probability, block)
    result = np.zeros((steps, rows), np.bool_)
    for step in range(steps):
        batch = batches.draw()
        result[step, batch.indices[batch.mask]] = True
        assert result[step].sum() == batch.samples, "no row is in a batch twice"
    return result


def faults(draws: Draws, q: float = Q) -> list[str]:
    """What is wrong with them as Poisson batches of rate q, beyond six standard errors."""
    steps, rows = draws.shape
    sizes, found = draws.sum(axis=1), []
    variance = rows * q * (1 - q)
    if abs(sizes.mean() - rows * q) > 6 * math.sqrt(variance / steps):
        found.append("mean size")
    if abs(sizes.var() / variance - 1) > 6 * math.sqrt(2 / steps):
        found.append("spread of sizes")
    if np.abs(draws.mean(axis=0) - q).max() > 6 * math.sqrt(q * (1 - q) / steps):
        found.append("how often a row comes")
    for distance in (1, 2, 3):
        both = (draws[:-distance] & draws[distance:]).mean()
        if abs(both - q * q) > 6 * math.sqrt(q * q / (rows * steps)):
            found.append("steps know of each other")
    pairs = np.corrcoef(draws[:, :-1].ravel(), draws[:, 1:].ravel())[0, 1]
    if abs(pairs) > 6 / math.sqrt(rows * steps):
        found.append("rows know of each other")
    return found


def test_each_row_is_in_each_batch_with_the_same_chance_whatever_else_is_in_it() -> None:
    assert faults(drawn()) == []


def of_passes(random: np.random.Generator) -> Draws:
    """A shuffled pass cut into batches, as training without privacy has them."""
    size, result = round(ROWS * Q), np.zeros((STEPS, ROWS), np.bool_)
    order: list[int] = []
    for step in range(STEPS):
        if len(order) < size:
            order = random.permutation(ROWS).tolist()
        result[step, order[:size]], order = True, order[size:]
    return result


def of_a_fixed_size(random: np.random.Generator) -> Draws:
    return random.permuted(np.tile(np.arange(ROWS) < round(ROWS * Q), (STEPS, 1)), axis=1)


def cut_off(random: np.random.Generator) -> Draws:
    """Batches that do not fit are cut in place of drawn again: the last rows come less often."""
    draws = random.random((STEPS, ROWS)) < Q
    result: Draws = draws & (draws.cumsum(axis=1) <= 20)
    return result


def in_blocks(random: np.random.Generator) -> Draws:
    return np.repeat(random.random((STEPS, ROWS // 2)) < Q, 2, axis=1)


WRONG: dict[str, tuple[Callable[[np.random.Generator], Draws], str]] = {
    "a permutation": (of_passes, "spread of sizes"),
    "a permutation, whose steps avoid each other": (of_passes, "steps know of each other"),
    "a fixed size": (of_a_fixed_size, "spread of sizes"),
    "cut off": (cut_off, "how often a row comes"),
    "neighbours together": (in_blocks, "rows know of each other"),
    "the same seed for each step": (lambda random: np.tile(random.random(ROWS) < Q, (STEPS, 1)), "spread of sizes"),
    "another chance": (lambda random: random.random((STEPS, ROWS)) < Q / (1 + Q), "mean size"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_other_batches_are_noticed(mistake: str) -> None:
    wrong, fault = WRONG[mistake]
    assert fault in faults(wrong(np.random.default_rng(4)))


def test_a_batch_that_does_not_fit_is_drawn_again_whole() -> None:
    block = 18  # the mean: nearly every second batch is larger
    words = ChaCha(KEY)
    whole = [words.chances(ROWS, Q) for _ in range(300)]
    fitting = np.array([batch for batch in whole if batch.sum() <= block])
    assert 100 < len(fitting) < 200
    np.testing.assert_array_equal(drawn(block, steps=len(fitting)), fitting)


def test_slots_behind_the_rows_are_masked_and_hold_a_valid_index() -> None:
    batch = PoissonBatches(ChaCha(KEY), 50, 0.2, 32).draw()
    assert batch.indices.shape == batch.mask.shape == (1, 32)
    assert batch.indices.dtype == np.int32
    assert 0 < batch.samples < 32
    assert batch.mask[0].tolist() == [True] * batch.samples + [False] * (32 - batch.samples)
    assert not batch.indices[~batch.mask].any()


def test_every_row_is_in_every_batch_when_a_batch_holds_all() -> None:
    assert drawn(rows=7, probability=1.0, block=16, steps=20).all()


def above(rows: int, q: float, size: int) -> float:
    """P(Binomial(rows, q) > size), term by term."""
    log_choose = [math.lgamma(rows + 1) - math.lgamma(k + 1) - math.lgamma(rows - k + 1) for k in range(rows + 1)]
    terms = [log_choose[k] + k * math.log(q) + (rows - k) * math.log1p(-q) for k in range(size + 1, rows + 1)]
    return math.fsum(map(math.exp, terms))


@given(st.integers(1, 600), st.floats(0.001, 0.999), st.sampled_from([1e-3, 1e-9, 3e-17]))
def test_a_block_overflows_no_more_often_than_asked_and_is_not_much_larger_than_that_needs(
    rows: int, q: float, overflow: float
) -> None:
    block = block_rows(rows, q, overflow)
    assert block % BLOCK_MULTIPLE == 0
    assert block < rows + BLOCK_MULTIPLE
    assert above(rows, q, block) <= overflow
    assert block <= rows * q + 1.3 * math.sqrt(-2 * math.log(overflow) * (rows * q + 9)) + BLOCK_MULTIPLE + 20


def test_the_digits_of_the_demo_get_a_block_of_known_size() -> None:
    """479 rows, batches of 128, 320 steps at delta 1e-5: a mean of 128, a deviation of 9.7."""
    assert block_rows(479, 128 / 479, 1e-5 / (100 * 320)) == 208
    assert block_rows(479, 128 / 479, 1e-14 / 320) == 224
    assert block_rows(100, 1.0, 1e-14) == 112
