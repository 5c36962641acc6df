"""Masks against a slow stream, and masked sums against plain ones, whoever drops out."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import combinations
from typing import NamedTuple

import hypothesis.strategies as st
import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given

from discod import ring
from discod.errors import LocalError
from discod.masks import Masks, Streams

# Constants of docs/protocol.md. The stream is also: openssl enc -aes-256-ctr -iv 00..02 < /dev/zero.
KEY = bytes(range(32))
STREAM = (
    "0ebcb5deb52c83bd08a8a935182c9199d24356532881602f809eb383c5ff5d56"
    "4e5fe6bc2af2b80633c371f5c1ce694ea90741e6797146a550b63f264a604ee4"
    "e96f3e0a91d150e2d389d3c716244899"
)
MASKED = (
    "b8834cacb104bea16870e9cc694d3a87c3fc17c343111baa5ccd805bac26695e074724d6290367e78dad5165fe07bf6a"
    "2bf5ba36505dee5b7e0adea429cb94e48394643702b8804acd9c8efc24e30986"
)
MASKED_HASHES = (
    "34371e7c54974b2400f30db13a43a812b1ee28c1ae82680eec42e2cee42314df",
    "e6b3088b0c17c9c6b83ae1331678d7374e6dcd29d95bc43e26fe3eeef51101e2",
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",  # of nothing: the third chunk is empty
)

seeds = st.integers(0, 2**32 - 1)
keys = st.binary(min_size=32, max_size=32)


def slow_stream(key: bytes, start: int, count: int) -> list[int]:
    block = Cipher(AES256(key), ECB()).encryptor().update
    counters = range(start // 4, -(-(start + count) // 4))
    octets = b"".join(block((2 + n).to_bytes(16, "big")) for n in counters)
    return [int.from_bytes(octets[4 * n : 4 * n + 4], "little") for n in range(count)]


def stream(key: bytes, start: int, count: int) -> ring.Words:
    words = np.zeros(count, np.uint32)
    ring.unmask(words, start, Masks((key,), ()))
    return words


def test_a_known_key_has_a_known_stream() -> None:
    assert stream(KEY, 0, 20).astype("<u4").tobytes().hex() == STREAM
    assert stream(KEY, 16, 4).astype("<u4").tobytes().hex() == STREAM[128:]


@given(keys, st.integers(0, 2**34), st.integers(0, 99))
def test_the_stream_is_the_counters_encrypted_from_any_line_on(key: bytes, line: int, count: int) -> None:
    assert stream(key, 16 * line, count).tolist() == slow_stream(key, 16 * line, count)


@pytest.mark.parametrize("line", [0, 1, 4095, 4096, 4097, 8192])  # 4096 lines are one block of the loop
def test_seeking_goes_where_the_whole_stream_is(line: int) -> None:
    whole, start = stream(KEY, 0, 2 * ring.BLOCK + 90), 16 * line
    assert np.array_equal(stream(KEY, start, whole.size - start), whole[start:])


@pytest.mark.parametrize("start", [1, 4, 15, 24])
def test_a_start_within_a_line_is_our_bug(start: int) -> None:
    with pytest.raises(LocalError, match="line"):
        stream(KEY, start, 4)


@given(st.lists(keys, max_size=4), st.lists(keys, max_size=4))
def test_no_key_is_in_any_repr(plus: list[bytes], minus: list[bytes]) -> None:
    masks = Masks(tuple(plus), tuple(minus))
    for text in (repr(masks), str(masks), f"{masks}", repr([masks]), repr(Streams(masks, 0, 16))):
        assert not any(key.hex() in text or repr(key) in text for key in plus + minus)
    assert repr(masks) == f"<Masks +{len(plus)} -{len(minus)}>"


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_another_length_is_our_bug_and_is_not_told(length: int) -> None:
    with pytest.raises(LocalError) as caught:
        Masks((KEY,), (b"k" * length,))
    assert "kkkk" not in str(caught.value)


# One peer


def test_a_known_update_has_known_words() -> None:
    k, out, codec = np.arange(19, dtype=np.float32), np.zeros(20, np.uint32), ring.Codec(3, 0.25)
    local, base = k / np.float32(16) - np.float32(0.5), np.full(19, 1 / 32, np.float32)
    masks = Masks((b"\x01" * 32, b"\x02" * 32), (b"\x03" * 32,))
    encoded = ring.encode(local, base, codec, 40000, out, masks)
    assert out.astype("<u4").tobytes().hex() == MASKED
    assert [one.hex() for one in encoded.hashes] == list(MASKED_HASHES)
    assert encoded.clipped == 5


def update_of(seed: int, d: int) -> tuple[ring.Floats, ring.Floats]:
    random = np.random.default_rng(seed)
    local, base = random.normal(size=(2, d)).astype(np.float32)
    return local, base


@given(st.integers(3, 16), st.integers(0, 300), st.none() | st.integers(1, 65535), seeds)
def test_masked_words_are_the_plain_ones_and_slow_streams(peers: int, d: int, weight: int | None, seed: int) -> None:
    local, base = update_of(seed, d)
    codec, mine = ring.Codec(peers, 2.0), [sha256(b"%d %d" % (seed, n)).digest() for n in range(3)]
    plain, masked = np.zeros((2, d + (weight is not None)), np.uint32)
    before = ring.encode(local, base, codec, weight, plain)
    after = ring.encode(local, base, codec, weight, masked, Masks((mine[0],), (mine[1], mine[2])))
    slow = [slow_stream(key, 0, plain.size) for key in mine]
    assert masked.tolist() == [(q + a - b - c) % 2**32 for q, a, b, c in zip(plain.tolist(), *slow, strict=True)]
    bounds = ring.chunk_bounds(masked.size, peers)
    assert after.hashes == tuple(sha256(masked[a:b].tobytes()).digest() for a, b in bounds)
    assert after.clipped == before.clipped


@given(st.integers(1, 200), seeds)
def test_without_a_weight_word_all_count_in_full(d: int, seed: int) -> None:
    local, base = update_of(seed, d)
    codec, full, none = ring.Codec(3, 1.0), np.zeros(d + 1, np.uint32), np.zeros(d, np.uint32)
    clipped = [ring.encode(local, base, codec, *rest).clipped for rest in ((65535, full), (None, none))]
    assert np.array_equal(full[:-1], none)
    assert clipped[0] == clipped[1]


@pytest.mark.parametrize(("weight", "extra"), [(None, 1), (9, 0), (9, 2)])
def test_an_output_of_another_size_is_our_bug(weight: int | None, extra: int) -> None:
    values = np.zeros(30, np.float32)
    with pytest.raises(LocalError, match="words for 30"):
        ring.encode(values, values, ring.Codec(3, 1.0), weight, np.zeros(30 + extra, np.uint32))


@pytest.mark.parametrize("weight", [None, 777])
def test_chunks_encoded_side_by_side_are_the_whole(weight: int | None) -> None:
    local, base = update_of(8, 200_001)  # chunks of more than one block
    codec, masks = ring.Codec(3, 1.0), Masks((KEY, bytes(32)), (b"\x07" * 32,))
    whole, pieces = np.zeros((2, 200_001 + (weight is not None)), np.uint32)
    encoded = ring.encode(local, base, codec, weight, whole, masks)
    with ThreadPoolExecutor(3) as pool:
        parts = list(pool.map(lambda c: ring.encode_chunk(local, base, codec, weight, pieces, c, masks), (2, 0, 1)))
    assert np.array_equal(whole, pieces)
    assert encoded.hashes == (*parts[1].hashes, *parts[2].hashes, *parts[0].hashes)
    assert encoded.clipped == sum(part.clipped for part in parts)
    assert (encoded.clipped > 0) is (weight is None)  # 777 of 65535 scales everything far below the bound


def test_a_chunk_touches_no_word_of_another() -> None:
    local, base = update_of(3, 99)
    out = np.full(100, 0xA5A5A5A5, np.uint32)
    ring.encode_chunk(local, base, ring.Codec(3, 2.0), 5, out, 1, Masks((KEY,), ()))
    a, b = ring.chunk_bounds(100, 3)[1]
    assert set(out[:a].tolist() + out[b:].tolist()) == {0xA5A5A5A5}
    assert not (out[a:b] == 0xA5A5A5A5).any()


# All peers


class Round(NamedTuple):
    """Words (n, k) of all peers, masked and plain, and what opens the sum over `included`."""

    bounds: tuple[tuple[int, int], ...]
    masked: ring.Words
    plain: ring.Words
    included: list[int]
    opening: Masks


def pair_key(seed: int, i: int, j: int) -> bytes:
    return sha256(b"pair %d %d %d" % (seed, min(i, j), max(i, j))).digest()


def masks_of(seed: int, i: int, peers: int) -> Masks:
    plus = tuple(pair_key(seed, i, j) for j in range(i + 1, peers))
    return Masks((*plus, sha256(b"self %d %d" % (seed, i)).digest()), tuple(pair_key(seed, i, j) for j in range(i)))


def opening_of(seed: int, included: list[int], peers: int) -> Masks:
    """What is left in the sum, with the opposite sign: own streams, and those of pairs of which one half is missing."""
    gone = [j for j in range(peers) if j not in included]
    added = [pair_key(seed, i, j) for i in included for j in gone if i < j]
    own = [sha256(b"self %d %d" % (seed, i)).digest() for i in included]
    return Masks(tuple(pair_key(seed, i, j) for i in included for j in gone if i > j), (*own, *added))


def round_of(peers: int, included: list[int], d: int, weighted: bool, seed: int) -> Round:
    codec, k = ring.Codec(peers, 1.0), d + weighted
    masked, plain = np.zeros((2, peers, k), np.uint32)
    for i in range(peers):
        local, base = update_of(seed + i, d)
        weight = 1000 + 37 * i if weighted else None
        ring.encode(local, base, codec, weight, masked[i], masks_of(seed, i, peers))
        ring.encode(local, base, codec, weight, plain[i])
    return Round(ring.chunk_bounds(k, peers), masked, plain, included, opening_of(seed, included, peers))


rounds = st.builds(
    lambda shape, d, weighted, seed: round_of(shape[0], sorted(shape[1]), d, weighted, seed),
    st.integers(3, 16).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1))),
    st.integers(0, 300),
    st.booleans(),
    seeds,
)


def sums_of(made: Round) -> Iterator[tuple[ring.Words, ring.Words, list[ring.Words], int]]:
    """(plain sum, masked sum, masked pieces, start) of every chunk, over those who are included."""
    for a, b in made.bounds:
        plain, masked = np.zeros((2, b - a), np.uint32)
        ring.combine([made.plain[i, a:b] for i in made.included], plain)
        pieces = [made.masked[i, a:b] for i in made.included]
        ring.combine(pieces, masked)
        yield plain, masked, pieces, a


@given(rounds)
def test_masked_sums_open_to_the_plain_ones_whoever_drops_out(made: Round) -> None:
    for plain, masked, pieces, start in sums_of(made):
        out = np.zeros_like(plain)
        assert ring.combine(pieces, out, start, made.opening) == sha256(plain.tobytes()).digest()
        assert np.array_equal(out, plain)
        ring.unmask(masked, start, made.opening)
        assert np.array_equal(masked, plain)


def test_long_chunks_open_too() -> None:
    made = round_of(4, [0, 2, 3], 4 * ring.BLOCK + 300, True, 5)
    for plain, _, pieces, start in sums_of(made):
        out = np.zeros_like(plain)
        ring.combine(pieces, out, start, made.opening)
        assert np.array_equal(out, plain)


def test_one_key_too_few_opens_nothing() -> None:
    made = round_of(5, [0, 1, 3, 4], 64, False, 2)
    for plain, masked, _, start in sums_of(made):
        for one in combinations(made.opening.minus, len(made.opening.minus) - 1):
            words = masked.copy()
            ring.unmask(words, start, Masks(made.opening.plus, one))
            assert not (words == plain).any()
            assert plain.size == 0 or not ring.check_bound(words, ring.Codec(5, 1.0), 4)


# The sum


@given(st.integers(1, 9), st.integers(1, 200), seeds)
def test_a_mean_without_weights_is_that_of_full_weights(peers: int, d: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    codec, base = ring.Codec(9, 0.5), random.normal(size=d).astype(np.float32)
    total = random.integers(-(2**27), 2**27, d).astype(np.int32).view(np.uint32)
    weighted = np.append(total, np.uint32(65535 * peers))
    out, same = np.zeros((2, d), np.float32)
    applied = ring.apply_mean(base, total, codec, out, peers)
    assert applied == ring.apply_mean(base, weighted, codec, same)
    true = base.astype(np.float64) + total.view(np.int32) * 0.5 / 2.0**codec.bits / peers
    assert np.abs(out - true).max() <= 3e-7 * (1 + np.abs(true).max())


@pytest.mark.parametrize(("peers", "extra"), [(None, 0), (None, 2), (3, 1)])
def test_a_sum_of_another_size_is_our_bug(peers: int | None, extra: int) -> None:
    base = np.zeros(30, np.float32)
    with pytest.raises(LocalError, match="for 30 parameters"):
        ring.apply_mean(base, np.ones(30 + extra, np.uint32), ring.Codec(3, 1.0), base.copy(), peers)


@pytest.mark.parametrize("place", [0, 70_000, 99_999])
@pytest.mark.parametrize(
    ("value", "kept"),
    [(5 * 2**28, True), (5 * 2**28 + 1, False), (-5 * 2**28, True), (-5 * 2**28 - 1, False), (-(2**31), False)],
)
def test_a_sum_beyond_what_its_peers_can_make_is_noticed(value: int, kept: bool, place: int) -> None:
    total = np.zeros(100_000, np.uint32)
    total[place] = value % 2**32
    codec = ring.Codec(7, 1.0)
    assert codec.bits == 28
    assert ring.check_bound(total, codec, 5) is kept


def test_a_sum_of_full_weights_keeps_to_the_bound() -> None:
    for peers in (1, 3, 1000):
        assert ring.check_bound(np.array([0, 65535 * peers], np.uint32), ring.Codec(peers, 1.0), peers)
    assert ring.check_bound(np.zeros(0, np.uint32), ring.Codec(3, 1.0), 1)
