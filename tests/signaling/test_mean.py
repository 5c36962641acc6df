from __future__ import annotations

import numpy as np
import pytest

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
