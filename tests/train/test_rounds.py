import pytest
from hypothesis import given
from hypothesis import strategies as st

from discod.train.rounds import RoundTracker


def test_no_round_has_ended_at_the_start() -> None:
    assert not RoundTracker(2).round_has_ended


def test_a_round_of_five_batches_ends_with_every_fifth_batch() -> None:
    tracker, ended = RoundTracker(5), []
    for batch in range(1, 16):
        tracker.update_batch()
        if tracker.round_has_ended:
            ended.append((batch, tracker.round))
    assert ended == [(5, 1), (10, 2), (15, 3)]


def test_asking_twice_counts_once() -> None:
    tracker = RoundTracker(2)
    tracker.update_batch(2)
    assert [tracker.round_has_ended, tracker.round_has_ended, tracker.round] == [True, True, 1]


def test_a_restart_goes_on_in_the_middle_of_a_round() -> None:
    tracker = RoundTracker(5, batch=13)
    assert (tracker.round, tracker.remaining, tracker.round_has_ended) == (2, 2, False)
    tracker.update_batch(2)
    assert (tracker.round, tracker.remaining, tracker.round_has_ended) == (3, 5, True)


@given(st.integers(1, 20), st.lists(st.integers(1, 20), max_size=40))
def test_slices_never_step_over_a_round_end(duration: int, wishes: list[int]) -> None:
    tracker, ends = RoundTracker(duration), 0
    for wish in wishes:
        tracker.update_batch(min(wish, tracker.remaining))
        ends += tracker.round_has_ended
    assert ends == tracker.round


def test_training_past_the_round_end_is_our_bug() -> None:
    tracker = RoundTracker(5, batch=3)
    with pytest.raises(AssertionError):
        tracker.update_batch(3)
