from itertools import islice

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from discod.train.batches import BatchOrder

HASH = bytes(range(32))


@given(st.integers(0, 2**63 - 1), st.integers(1, 300), st.integers(1, 40), st.integers(0, 5))
def test_a_pass_visits_no_row_twice_and_drops_less_than_a_batch(seed: int, rows: int, size: int, number: int) -> None:
    block = BatchOrder(seed, HASH, rows, size).pass_block(number)
    seen = block.indices[block.mask]
    assert block.indices.dtype == np.int32
    assert block.indices.shape == (max(1, rows // size), size)
    assert len(set(seen.tolist())) == len(seen) == block.samples
    assert seen.min() >= 0
    assert seen.max() < rows
    assert rows - len(seen) < size
    assert block.mask.all() == (rows >= size)


def test_few_rows_make_one_padded_batch() -> None:
    block = BatchOrder(1, HASH, 5, 8).pass_block(0)
    assert block.mask.tolist() == [[True] * 5 + [False] * 3]
    assert sorted(block.indices[0, :5].tolist()) == [0, 1, 2, 3, 4]
    assert block.indices[0, 5:].tolist() == [0, 0, 0]


def test_the_order_depends_on_seed_content_and_pass() -> None:
    first = BatchOrder(1, HASH, 50, 10).pass_block(0).indices
    assert (first == BatchOrder(1, HASH, 50, 10).pass_block(0).indices).all()
    assert (first != BatchOrder(2, HASH, 50, 10).pass_block(0).indices).any()
    assert (first != BatchOrder(1, HASH[::-1], 50, 10).pass_block(0).indices).any()
    assert (first != BatchOrder(1, HASH, 50, 10).pass_block(1).indices).any()


def test_the_order_never_changes_between_versions() -> None:
    assert BatchOrder(3, HASH, 11, 5).pass_block(2).indices.tolist() == [[1, 3, 0, 10, 7], [4, 2, 9, 5, 6]]


def test_batches_go_on_where_the_counter_stands() -> None:
    order = BatchOrder(5, HASH, 23, 5)
    whole = [indices.tolist() for indices, _ in islice(order.batches(0), 14)]
    assert [indices.tolist() for indices, _ in islice(order.batches(6), 8)] == whole[6:]
    assert order.position(6) == (1, 2)
    assert whole[4:8] == order.pass_block(1).indices.tolist()
