"""The secret stream against its RFC, and its normal values against the bell curve."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from discod.train.chacha import ChaCha

KEY = bytes(range(32))
COUNT = 400_000

Normals = Callable[[int], NDArray[np.floating]]


def test_the_stream_is_that_of_rfc_8439() -> None:
    """Appendix A.1, test vectors 1 and 2: the blocks 0 and 1 of the key and nonce of zeros."""
    stream = ChaCha(bytes(32))
    first = stream.words(2).astype("<u8").tobytes() + stream.words(6).astype("<u8").tobytes()
    assert first[:16].hex() == "76b8e0ada0f13d90405d6ae55386bd28"
    assert first[48:].hex() == "6a43b8f41518a11cc387b669b2ee6586"
    assert stream.words(8).astype("<u8").tobytes()[:16].hex() == "9f07e7be5551387a98ba977c732d080d"


def test_a_key_that_is_used_up_is_followed_by_the_next_words_as_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cipher refuses to count further than 2^32 blocks, which a long run of a large model reaches."""
    whole = ChaCha(KEY).words(14)
    monkeypatch.setattr("discod.train.chacha.KEY_LASTS_BYTES", 80)
    stream = ChaCha(KEY)
    assert (stream.words(10) == whole[:10]).all()
    after = ChaCha(whole[10:].tobytes())
    assert (stream.words(3) == after.words(3)).all()
    assert (stream.words(7) == after.words(7)).all()


def test_another_key_is_another_stream() -> None:
    assert (ChaCha(KEY).words(4) != ChaCha(bytes(32)).words(4)).all()


def faults(normals: Normals) -> list[str]:
    """What is wrong with them as draws of mean 0 and deviation 1, beyond six standard errors."""
    values = normals(COUNT).astype(np.float64)
    found, error = [], 6 / math.sqrt(COUNT)
    if abs(values.mean()) > error:
        found.append("mean")
    if abs((values**2).mean() - 1) > error * math.sqrt(2):
        found.append("deviation")
    if abs((values**4).mean() - 3) > error * math.sqrt(96):
        found.append("tails")
    for x in (-2.5, -1.0, -0.3, 0.0, 0.7, 1.5, 3.0):
        wanted = math.erfc(-x / math.sqrt(2)) / 2
        if abs((values < x).mean() - wanted) > error * math.sqrt(wanted * (1 - wanted)):
            found.append(f"share below {x}")
    for distance in (1, 2, COUNT // 2):  # the two values of a pair lie half the count apart
        for power in (1, 2):
            left, right = values[:-distance] ** power, values[distance:] ** power
            if abs(np.corrcoef(left, right)[0, 1]) > 6 / math.sqrt(COUNT - distance):
                found.append(f"values {distance} apart")
    return found


def test_normal_values_have_the_mean_the_deviation_and_the_tails_of_the_bell_curve() -> None:
    assert faults(ChaCha(KEY).normals) == []


def radius_without_root(count: int) -> NDArray[np.float32]:
    words = ChaCha(KEY).words(2 * count).astype(np.float64) / 2.0**64
    return (-2 * np.log1p(-words[:count]) * np.cos(2 * math.pi * words[count:])).astype(np.float32)


def one_angle_for_all(count: int) -> NDArray[np.float32]:
    radius = np.hypot(ChaCha(KEY).normals(count // 2), ChaCha(bytes(32)).normals(count // 2))
    return np.concatenate([radius * np.cos(0.7), radius * np.sin(0.7)]).astype(np.float32)


def sum_of_twelve(count: int) -> NDArray[np.float64]:
    uniform: NDArray[np.float64] = ChaCha(KEY).words(12 * count).reshape(12, count) / 2.0**64
    return np.asarray(uniform.sum(0) - 6)


WRONG: dict[str, tuple[Normals, str]] = {
    "half the deviation": (lambda count: ChaCha(KEY).normals(count) / 2, "deviation"),
    "the deviation squared": (lambda count: ChaCha(KEY).normals(count) * np.float32(1.1**2 / 1.1), "deviation"),
    "a radius without its root": (radius_without_root, "deviation"),
    "one angle for all pairs": (one_angle_for_all, "mean"),
    "a sum of twelve uniforms, which ends at 6": (sum_of_twelve, "tails"),
    "the same values again": (lambda count: np.tile(ChaCha(KEY).normals(count // 2), 2), f"values {COUNT // 2} apart"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_wrong_normal_values_are_noticed(mistake: str) -> None:
    wrong, fault = WRONG[mistake]
    assert fault in faults(wrong)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4_865])
def test_any_number_of_values_can_be_drawn(count: int) -> None:
    values = ChaCha(KEY).normals(count)
    assert values.shape == (count,)
    assert values.dtype == np.float32
    assert np.isfinite(values).all()


@pytest.mark.parametrize("probability", [0.0, 2.0**-70, 0.25, 0.7, 1.0 - 2.0**-53, 1.0])
def test_a_chance_comes_true_as_often_as_it_says(probability: float) -> None:
    share = ChaCha(KEY).chances(COUNT, probability).mean()
    assert abs(share - probability) <= 6 * math.sqrt(probability * (1 - probability) / COUNT)


def test_the_ends_of_the_words_give_finite_values() -> None:
    """A word of ones and one of zeros: the largest and the smallest radius."""

    class Ends(ChaCha):
        def words(self, count: int) -> NDArray[np.uint64]:
            return np.resize(np.array([0, 2**64 - 1], np.uint64), count)

    values = Ends(KEY).normals(4)
    assert np.abs(values).max() == pytest.approx(math.sqrt(2 * 52 * math.log(2)))
    assert np.abs(values).min() == 0
