import numpy as np
import pytest

from discod.daemon.names import choose, matches
from discod.daemon.resuming import where_to_start
from discod.daemon.traffic import Counted, Traffic
from discod.errors import UsageError
from discod.identity import short_id, show_id
from discod.store import SpentRow, Working

PEER, OTHER = bytes(range(32)), bytes(range(1, 33))
BASE = np.arange(3, dtype=np.float32)
LOCAL = BASE + 0.5


@pytest.mark.parametrize("ref", ["lab-b", show_id(PEER), short_id(PEER), short_id(PEER).lower().replace("-", "")])
def test_a_thing_is_called_by_name_short_or_full_id(ref: str) -> None:
    assert matches(ref, PEER, "lab-b")
    assert not matches(ref, OTHER, "home-c")


def test_none_or_several_are_errors_with_names() -> None:
    assert choose("peer", "x", [3]) == 3
    for found, code in (([], "unknown-peer"), ([1, 2], "ambiguous")):
        with pytest.raises(UsageError) as caught:
            choose("peer", "x", found)
        assert caught.value.code == code


def test_traffic_counts_a_link_from_zero_again_when_it_comes_back() -> None:
    traffic = Traffic({PEER: Counted(1.0, 100, 50)})
    traffic.update({PEER: Counted(1.0, 130, 70)})
    traffic.update({})
    traffic.update({PEER: Counted(9.0, 1000, 2), OTHER: Counted(2.0, 7, 3)})
    assert (traffic.up, traffic.down) == (30 + 1000 + 7, 20 + 2 + 3)


SENT = SpentRow(PEER, 32, bytes(32), 0.0, None)
SENT_BEFORE = SpentRow(OTHER, 16, bytes(32), 0.0, None)


@pytest.mark.parametrize(
    ("working", "spent", "expected", "batches"),
    [
        (None, (), BASE, 0),
        (None, (SENT,), BASE, 32),
        (Working(PEER, 24, {"parameters": LOCAL}), (), LOCAL, 24),
        (Working(PEER, 24, {"parameters": LOCAL}), (SENT,), BASE, 32),
        (Working(PEER, 40, {"parameters": LOCAL}), (SENT,), BASE, 40),
        (Working(PEER, 40, {"parameters": LOCAL}), (SENT_BEFORE,), LOCAL, 40),
        (Working(OTHER, 24, {"parameters": LOCAL}), (), BASE, 24),
        (Working(PEER, 24, {}), (), BASE, 24),
        (Working(PEER, 24, {"parameters": LOCAL[:2]}), (), BASE, 24),
    ],
)
def test_training_goes_on_from_what_was_not_spent(
    working: Working | None, spent: tuple[SpentRow, ...], expected: np.ndarray, batches: int
) -> None:
    start = where_to_start(PEER, BASE, working, spent)
    assert start.batches == batches
    assert np.array_equal(start.parameters, expected)
