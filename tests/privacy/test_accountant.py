"""The accountant against Google's dp-accounting (frozen, dp_accounting.txt), against privacy.md, and its laws."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discod.errors import Exit
from discod.privacy.accountant import (
    NOTHING,
    ORDERS,
    OutOfRange,
    add,
    epsilon_of,
    gaussian,
    noise_for,
    sampled_gaussian,
)

DELTA = 1e-5
rates = st.floats(1e-3, 1.0)
noises = st.floats(0.5, 50.0)


def frozen(kind: str) -> Iterator[list[str]]:
    text = (Path(__file__).parent / "dp_accounting.txt").read_text()
    return (words for line in text.splitlines() if (words := line.split())[0] == kind and (words := words[1:]))


def test_epsilons_are_those_of_dp_accounting() -> None:
    points = [tuple(map(float, words)) for words in frozen("epsilon")]
    assert len(points) == 320
    for q, z, steps, delta, expected in points:
        found = epsilon_of(sampled_gaussian(q, z, int(steps)), delta)
        if expected < 100:
            assert found == pytest.approx(expected, abs=1e-6), (q, z, steps, delta)
        assert found <= expected * (1 + 1e-9)  # less where its lowest orders give none


def test_curves_are_those_of_dp_accounting_and_finite_where_it_has_none() -> None:
    lines = list(frozen("curve"))
    assert len(lines) == 8
    for q, z, *values in lines:
        curve = sampled_gaussian(float(q), float(z))
        assert len(values) == len(curve)
        for order, found, expected in zip(ORDERS, curve, values, strict=True):
            if expected != "-":
                assert found == pytest.approx(float(expected), abs=1e-9, rel=1e-9), (q, z, order)
            assert 0 <= found < math.inf
    assert "-" in {value for line in lines for value in line}


def test_check_values_of_the_design() -> None:
    assert epsilon_of(gaussian(10, 100), DELTA) == pytest.approx(4.73, abs=0.005)
    wanted = {(1, 100): 40.5, (2, 100): 21.5, (4, 100): 11.6, (8, 100): 6.4}
    wanted |= {(1, 1): 4.05, (2, 1): 2.15, (4, 1): 1.16, (8, 1): 0.64}
    for (epsilon, steps), z in wanted.items():
        digits = 1 if steps == 100 else 2
        assert round(noise_for(epsilon, DELTA, 1.0, steps), digits) == z
    demo = epsilon_of(sampled_gaussian(128 / 479, 3.3, 80 * 4), DELTA)
    tumor = epsilon_of(sampled_gaussian(50 / 151, 4.9, 10 * 4), DELTA)
    assert (round(demo, 2), round(tumor, 2)) == (7.64, 1.93)


def test_orders_are_those_of_every_ledger() -> None:
    assert len(ORDERS) == 163
    assert list(ORDERS) == sorted(set(ORDERS))
    assert (ORDERS[0], ORDERS[3], ORDERS[93], ORDERS[146], ORDERS[-1]) == (1.25, 2.0, 11.0, 64.0, 1024.0)


@given(rates, noises, st.integers(0, 500), st.integers(1, 500))
@settings(max_examples=30, deadline=None)
def test_more_steps_cost_more_and_curves_add(q: float, z: float, few: int, more: int) -> None:
    one, other, both = (sampled_gaussian(q, z, steps) for steps in (few, more, few + more))
    assert add(one, other) == pytest.approx(both)
    assert epsilon_of(one, DELTA) <= epsilon_of(both, DELTA) <= epsilon_of(one, DELTA) + epsilon_of(other, DELTA) + 1e-9


@given(rates, noises, st.integers(1, 1000))
@settings(max_examples=30, deadline=None)
def test_sampling_helps_and_noise_helps(q: float, z: float, steps: int) -> None:
    curve = sampled_gaussian(q, z, steps)
    for order, sampled, whole, louder in zip(
        ORDERS, curve, gaussian(z, steps), sampled_gaussian(q, z * 1.1, steps), strict=True
    ):
        assert 0 <= louder <= sampled * (1 + 1e-9) or not order.is_integer(), order  # bounds of two kinds
        assert sampled <= whole * (1 + 1e-9), order


@given(st.floats(1e-6, 0.9), noises)
@settings(max_examples=30, deadline=None)
def test_a_curve_never_falls_with_the_order(q: float, z: float) -> None:
    # Every value is an upper bound; the one for a fractional order may be looser by what stands in for lost digits.
    whole = [v for order, v in zip(ORDERS, sampled_gaussian(q, z), strict=True) if order.is_integer()]
    assert all(low <= high * (1 + 1e-9) for low, high in pairwise(whole))


def test_no_releases_cost_nothing() -> None:
    assert add() == NOTHING == sampled_gaussian(0.3, 1.0, 0)
    assert epsilon_of(NOTHING, DELTA) == 0.0


def test_releases_too_faint_for_floating_point_still_cost_something() -> None:
    assert all(value > 0 for value in sampled_gaussian(1e-9, 100.0))


def test_overflow_takes_its_share_of_delta_on_both_sides() -> None:
    curve = sampled_gaussian(0.2672, 3.3, 320)
    plain = epsilon_of(curve, DELTA)
    found = epsilon_of(curve, DELTA, overflow=1e-9)
    assert plain < found < plain + 0.1
    assert found == pytest.approx(epsilon_of(curve, DELTA - 1e-9 * (1 + math.exp(found))), abs=1e-6)
    assert epsilon_of(curve, DELTA, overflow=DELTA / 100) == math.inf  # e^7.6 of it is more than delta
    assert epsilon_of(curve, DELTA, overflow=DELTA * 1e-9) == pytest.approx(plain, abs=1e-6)


@given(st.floats(0.5, 8.0), st.floats(0.01, 1.0), st.integers(1, 400))
@settings(max_examples=10, deadline=None)
def test_noise_for_is_the_least_that_is_enough(epsilon: float, q: float, steps: int) -> None:
    z = noise_for(epsilon, DELTA, q, steps)
    assert z == round(z, 4)
    assert epsilon_of(sampled_gaussian(q, z, steps), DELTA) <= epsilon
    assert epsilon_of(sampled_gaussian(q, z - 1e-4, steps), DELTA) > epsilon


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: noise_for(0.0, DELTA, 0.5, 10), "epsilon"),
        (lambda: noise_for(math.nan, DELTA, 0.5, 10), "epsilon"),
        (lambda: noise_for(math.inf, DELTA, 0.5, 10), "epsilon"),
        (lambda: noise_for(1e-9, 1e-300, 1.0, 10**9), "epsilon"),
        (lambda: noise_for(1.0, 1.0, 0.5, 10), "delta"),
        (lambda: epsilon_of(NOTHING, 0.0), "delta"),
        (lambda: epsilon_of(NOTHING, math.nan), "delta"),
        (lambda: sampled_gaussian(0.0, 1.0), "q"),
        (lambda: sampled_gaussian(1.5, 1.0), "q"),
        (lambda: sampled_gaussian(0.5, 0.0), "z"),
        (lambda: gaussian(math.inf), "z"),
        (lambda: gaussian(1.0, -1), "steps"),
    ],
)
def test_what_no_guarantee_exists_for_is_named(call: object, named: str) -> None:
    with pytest.raises(OutOfRange, match=named) as caught:
        call()  # type: ignore[operator]  # a lambda of the table
    assert (caught.value.exit, caught.value.code) == (Exit.BAD_DATA, "privacy-out-of-range")
    assert caught.value.hint
