"""The memory of an attempt: whoever sends what in which order, the sums with the agreed hashes are what is taken."""

from __future__ import annotations

from hashlib import sha256
from itertools import permutations

import numpy as np
import pytest

from discod.daemon.room import Room
from discod.errors import LocalError
from discod.ring import Codec, Words, chunk_bounds, combine

WORDS = 70  # of three chunks: 32, 32 and 6
ME, A, B, C = (bytes([n]) * 32 for n in range(4))
BOUNDS = chunk_bounds(WORDS, 3)


def words(seed: int, chunk: int) -> Words:
    start, stop = BOUNDS[chunk]
    return np.random.default_rng(seed).integers(0, 1 << 32, stop - start, np.uint32)


def digest(sum_: Words) -> bytes:
    return sha256(sum_.data).digest()


def comes(room: Room, owner: bytes, chunk: int, sum_: Words) -> bytes:
    room.place_for_sum(owner, chunk)[:] = sum_
    room.sum_came(owner, chunk, digest(sum_))
    return digest(sum_)


def room() -> Room:
    return Room(WORDS, Codec(3, 1.0))


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_wrong_sum_that_came_first_spoils_nothing(order: tuple[int, ...]) -> None:
    """An owner that moved to another U has sent a sum over the first one: both are kept, the hashes decide."""
    one = room()
    right = [words(chunk, chunk) for chunk in range(3)]
    for chunk in order:
        comes(one, A, chunk, words(10 + chunk, chunk))
        comes(one, B, chunk, right[chunk])
    assert np.array_equal(one.total(tuple(map(digest, right))), np.concatenate(right))


def test_the_wrong_sum_can_be_the_agreed_one_too() -> None:
    one = room()
    first, second = words(1, 0), words(2, 0)
    others = [words(3, 1), words(4, 2)]
    comes(one, A, 0, first)
    comes(one, B, 0, second)
    for chunk, sum_ in enumerate(others, 1):
        comes(one, A, chunk, sum_)
    hashes = tuple(map(digest, [first, *others]))
    assert np.array_equal(one.total(hashes), np.concatenate([first, *others]))


def test_two_transfers_of_one_chunk_have_memory_of_their_own() -> None:
    one = room()
    theirs, mine, again = one.place_for_sum(A, 1), one.place_for_sum(B, 1), one.place_for_sum(A, 1)
    assert not np.shares_memory(theirs, mine)
    assert np.shares_memory(theirs, again)  # one that was cut off starts again in the same place
    assert len(theirs) == len(mine) == 32


def test_a_transfer_that_still_writes_does_not_reach_the_total() -> None:
    """A is slow, and its chunk has moved to B: what A writes goes nowhere, before and after the total is taken."""
    one = room()
    slow = one.place_for_sum(A, 0)
    right = [words(chunk, chunk) for chunk in range(3)]
    for chunk, sum_ in enumerate(right):
        comes(one, B, chunk, sum_)
    slow[:] = 7
    total = one.total(tuple(map(digest, right)))
    slow[:] = 8
    assert np.array_equal(total, np.concatenate(right))


def test_my_own_sum_is_of_exactly_these_pieces_and_outlives_the_total() -> None:
    one = room()
    one.mine = np.concatenate([words(20 + chunk, chunk) for chunk in range(3)])
    for number, peer in enumerate((A, B, C)):
        one.place_for_piece(peer, 0)[:] = words(30 + number, 0)
    pieces, out = one.prepare(0, (ME, A, C), ME)
    hash_ = combine(pieces, out)
    one.combined(0, out, hash_)
    expected = words(20, 0) + words(30, 0) + words(32, 0)
    assert np.array_equal(one.sum(0), expected)
    others = [words(1, 1), words(2, 2)]
    for chunk, sum_ in enumerate(others, 1):
        comes(one, B, chunk, sum_)
    total = one.total((hash_, *map(digest, others)))
    assert np.array_equal(total, np.concatenate([expected, *others]))
    total[:] = 0  # it becomes the new parameters, while sums are still on their way to others
    assert np.array_equal(one.sum(0), expected)


def test_pieces_of_one_chunk_do_not_overlap_and_are_gone_once_summed() -> None:
    one = room()
    places = [one.place_for_piece(peer, chunk) for peer in (A, B) for chunk in (0, 2)]
    for number, place in enumerate(places):
        place[:] = number
    assert [set(place.tolist()) for place in places] == [{0}, {1}, {2}, {3}]
    assert np.shares_memory(one.place_for_piece(A, 2), places[1])
    pieces, out = one.prepare(2, (A, B), ME)
    one.combined(2, out, combine(pieces, out))
    assert set(one.sum(2).tolist()) == {4}
    assert not np.shares_memory(one.place_for_piece(A, 2), places[1])  # a late one finds a new place
    assert np.shares_memory(one.place_for_piece(A, 0), places[0])


def test_nothing_is_sent_before_it_is_encoded() -> None:
    with pytest.raises(LocalError):
        room().piece(0)


def test_a_chunk_without_words_has_no_sum() -> None:
    """Four peers and three lines: nobody sends the last chunk, and its hash is empty."""
    one = Room(33, Codec(4, 1.0))
    bounds = chunk_bounds(33, 4)
    assert bounds[3] == (33, 33)
    right = [np.full(stop - start, chunk, np.uint32) for chunk, (start, stop) in enumerate(bounds[:3])]
    for chunk, sum_ in enumerate(right):
        comes(one, A, chunk, sum_)
    assert np.array_equal(one.total((*map(digest, right), b"")), np.concatenate(right))
