"""The fixed point against slow, obvious arithmetic on Python integers."""

from __future__ import annotations

from hashlib import sha256

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from discod import ring


def slow_words(x: np.ndarray, codec: ring.Codec, weight: int) -> list[int]:
    limit = 2**codec.bits
    scaled = [float(np.float32(np.float32(v * np.float32(weight / 65535)) * np.float32(codec.scale))) for v in x]
    return [max(-limit, min(limit, round(v))) % 2**32 for v in scaled] + [weight]


@given(
    st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, 100))),
    st.integers(1, 65535),
    st.integers(0, 2**32 - 1),
)
def test_encode_equals_arithmetic_on_integers(shape: tuple[int, int], weight: int, seed: int) -> None:
    peers, d = shape
    rng = np.random.default_rng(seed)
    local, base = rng.normal(size=(2, d)).astype(np.float32)
    codec = ring.Codec(peers, 2.0)
    words = np.zeros(d + 1, np.uint32)
    encoded = ring.encode(local, base, codec, weight, words)
    assert words.tolist() == slow_words(local - base, codec, weight)
    bounds = ring.chunk_bounds(d + 1, peers)
    assert encoded.hashes == tuple(sha256(words[a:b].tobytes()).digest() for a, b in bounds)


@given(st.integers(2, 16), st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_the_sum_is_exact_in_any_order_and_the_mean_within_its_bound(peers: int, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    base = rng.normal(size=d).astype(np.float32)
    updates = rng.uniform(-0.5, 0.5, size=(peers, d)).astype(np.float32)
    codec = ring.Codec(peers, 0.5)
    words = np.zeros((peers, d + 1), np.uint32)
    for i in range(peers):
        ring.encode(base + updates[i], base, codec, 65535, words[i])
    total, shuffled = np.zeros((2, d + 1), np.uint32)
    assert ring.combine(list(words), total) == ring.combine(list(words[rng.permutation(peers)]), shuffled)
    encodings = words[:, :-1].view(np.int32).astype(object).sum(axis=0)
    assert total[:-1].view(np.int32).tolist() == encodings.tolist()  # word for word, no overflow
    out = np.zeros(d, np.float32)
    ring.apply_mean(base, total, codec, out)
    true = base.astype(np.float64) + ((base + updates) - base).astype(np.float64).mean(axis=0)
    assert np.abs(out - true).max() <= 0.5 * 2.0 ** -(codec.bits + 1) + 2e-7 * (1 + np.abs(true).max())


def test_weights_weigh() -> None:
    base = np.zeros(3, np.float32)
    codec = ring.Codec(2, 1.0)
    words = np.zeros((2, 4), np.uint32)
    ring.encode(np.full(3, 0.25, np.float32), base, codec, ring.weight_word(300, 1000), words[0])
    ring.encode(np.full(3, -0.5, np.float32), base, codec, ring.weight_word(100, 1000), words[1])
    total, out = np.zeros(4, np.uint32), np.zeros(3, np.float32)
    ring.combine(list(words), total)
    ring.apply_mean(base, total, codec, out)
    assert out == pytest.approx((0.25 * 300 - 0.5 * 100) / 400, abs=2e-5)


def test_weight_word_is_capped_and_never_zero() -> None:
    assert ring.weight_word(10**9, 1000) == 65535
    assert ring.weight_word(0, 1000) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named(bad: float) -> None:
    local = np.zeros(70_000, np.float32)
    local[66_001] = bad
    with pytest.raises(ring.NotFinite) as caught:
        ring.encode(local, np.zeros_like(local), ring.Codec(3, 1.0), 65535, np.zeros(70_001, np.uint32))
    assert caught.value.index == 66_001


def test_huge_but_finite_values_are_clipped_and_counted() -> None:
    local = np.array([3e38, -3e38, 0.5, 0.0], np.float32)
    words = np.zeros(5, np.uint32)
    encoded = ring.encode(local, np.zeros(4, np.float32), ring.Codec(3, 1.0), 65535, words)
    assert encoded.clipped == 2
    assert words[:2].view(np.int32).tolist() == [2**29, -(2**29)]


@given(st.integers(1, 5000), st.integers(1, 40))
def test_chunks_cover_everything_once_at_aligned_bounds(words: int, chunks: int) -> None:
    bounds = ring.chunk_bounds(words, chunks)
    assert len(bounds) == chunks
    assert [a for a, _ in bounds[1:]] == [b for _, b in bounds[:-1]]
    assert (bounds[0][0], bounds[-1][1]) == (0, words)
    assert all(a % ring.ALIGN == 0 or a == words for a, _ in bounds)


def test_apply_may_overwrite_the_sum() -> None:
    rng = np.random.default_rng(5)
    base = rng.normal(size=100_000).astype(np.float32)
    codec = ring.Codec(2, 1.0)
    total = np.zeros(100_001, np.uint32)
    ring.encode(base + np.float32(0.125), base, codec, 65535, total)
    apart = np.zeros_like(base)
    first = ring.apply_mean(base, total.copy(), codec, apart)
    assert ring.apply_mean(base, total, codec, total[:-1].view(np.float32)) == first
    assert np.array_equal(total[:-1].view(np.float32), apart)
    assert first.hash == ring.hash_floats(apart)


def test_next_bound_follows_the_largest_value() -> None:
    assert ring.next_bound(0.3, 1.0) == 4.0  # the power of two above 0.3 is 0.5
    assert ring.next_bound(0.5, 1.0) == 8.0
    assert ring.next_bound(0.0, 0.25) == 0.25
