from __future__ import annotations

import numpy as np
import pytest

from discod.aggregators import RobustRule
from discod.errors import LocalError
from signaling.mean import advance, is_finite


def floats(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


def test_mean_is_weighted_and_what_is_behind_is_scaled_down_not_renormalised() -> None:
    total = advance(floats(1, -2), [(floats(4, 0), 1.0, 3), (floats(0, 8), 0.5, 1)])
    assert np.frombuffer(total, "<f4") == pytest.approx([1 + 12 / 4, -2 + 4 / 4])
    assert np.frombuffer(advance(floats(0), [(floats(4), 0.5, 7)]), "<f4") == pytest.approx([2])


def test_sum_is_made_in_double_precision() -> None:
    big = [(floats(1), 1.0, 1)] * 3 + [(floats(1e8), 1.0, 1), (floats(-1e8), 1.0, 1)]
    assert np.frombuffer(advance(floats(0), big), "<f4") == pytest.approx([0.6])


def test_update_of_another_length_is_a_bug() -> None:
    with pytest.raises(LocalError):
        advance(floats(0, 0), [(floats(1), 1.0, 1)])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_vector_with_no_number_in_it_is_found(bad: float) -> None:
    assert is_finite(floats(3e38, 3e38, 3e38))
    assert not is_finite(floats(0, bad, 1))


@pytest.mark.parametrize("rule", [RobustRule("median"), RobustRule("trimmed-mean", 2), RobustRule("multi-krum", 2)])
def test_robust_rules_keep_a_version_with_the_honest(rule: RobustRule) -> None:
    """Seven of small updates and two liars, whatever these send, in whatever order and with whatever weight."""
    random = np.random.default_rng(7)
    honest = [random.normal(0.01, 0.001, 50).astype("<f4") for _ in range(7)]
    before = np.full(50, 0.5, "<f4")
    for lie in (1e30, -1e6, 0.0, 1.0):
        parts = [(part.tobytes(), 1.0, 1) for part in (*honest, *[np.full(50, lie, "<f4")] * 2)]
        parts[-1] = (*parts[-1][:2], 65_535)
        after = advance(before.tobytes(), parts, rule)
        assert after == advance(before.tobytes(), parts[::-1], rule)
        moved = np.frombuffer(after, "<f4") - before
        assert (moved >= np.min(honest, axis=0) - 1e-6).all()
        assert (moved <= np.max(honest, axis=0) + 1e-6).all()


def test_a_rule_scales_what_is_behind_before_it_joins() -> None:
    parts = [(np.full(3, value, "<f4").tobytes(), factor, 9) for value, factor in ((1.0, 1.0), (8.0, 0.25), (3.0, 1.0))]
    found = np.frombuffer(advance(bytes(12), parts, RobustRule("median")), "<f4")
    assert found == pytest.approx([2.0] * 3, abs=1e-6)
