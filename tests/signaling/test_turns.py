from __future__ import annotations

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from signaling.limits import Limits
from signaling.turns import CREDIT_SECONDS, Turns

KB = 1000


def run(turns: Turns, senders: dict[bytes, tuple[bytes, int]], seconds: float) -> Counter[bytes]:
    """Bytes by peer when each sender (peer -> pair, size of its messages) always has one more message waiting."""
    sent, asked, now = Counter[bytes](), dict[int, bytes](), 0.0
    for peer, (pair, size) in senders.items():
        asked[turns.ask(pair, peer, size, now)] = peer
    while now < seconds:
        for number in turns.grant(now):
            peer = asked.pop(number)
            pair, size = senders[peer]
            sent[peer] += size
            asked[turns.ask(pair, peer, size, now)] = peer
        now = max(now, min(turns.deadline, seconds))
    return sent


def test_pairs_share_by_bytes_whatever_the_size_of_their_messages() -> None:
    turns = Turns(Limits(relay_total_bytes_per_second=1000 * KB))
    sent = run(turns, {b"heavy": (b"1", 60 * KB), b"light": (b"2", 2 * KB)}, 10)
    assert abs(sent[b"heavy"] - sent[b"light"]) <= 62 * KB
    assert 9_900 * KB <= sent.total() <= 10_200 * KB


def test_two_ends_of_a_pair_share_its_turns() -> None:
    turns = Turns(Limits(relay_total_bytes_per_second=900 * KB))
    sent = run(turns, {b"a": (b"1", 10 * KB), b"b": (b"1", 10 * KB), b"c": (b"2", 10 * KB)}, 10)
    assert abs(sent[b"a"] + sent[b"b"] - sent[b"c"]) <= 30 * KB


def test_a_pair_that_was_quiet_is_served_before_the_queue_of_a_heavy_one() -> None:
    turns = Turns(Limits(relay_total_bytes_per_second=1000 * KB, relay_bytes_per_second=1 << 30))
    for _ in range(50):
        turns.ask(b"heavy", b"h", 60 * KB, 0.0)
    turns.grant(0.0)
    now = turns.deadline
    number = turns.ask(b"quiet", b"q", 60 * KB, now)
    assert number in turns.grant(now)
    assert turns.deadline < math.inf


def test_a_peer_keeps_to_its_rate_on_all_its_pairs_together() -> None:
    turns = Turns(Limits(relay_bytes_per_second=100 * KB))
    sent = 0
    now, asked = 0.0, [turns.ask(pair, b"p", 10 * KB, 0.0) for pair in (b"1", b"2")]
    while now < 5:
        for number in turns.grant(now):
            asked.remove(number)
            sent += 10 * KB
            asked.append(turns.ask(b"1", b"p", 10 * KB, now))
        now = turns.deadline
    assert 500 * KB <= sent <= 500 * KB + 20 * KB + CREDIT_SECONDS * 100 * KB


def test_a_rate_that_was_not_used_is_not_saved_up() -> None:
    turns = Turns(Limits(relay_total_bytes_per_second=1000 * KB, relay_bytes_per_second=1 << 30))
    for _ in range(100):
        turns.ask(b"1", b"p", 10 * KB, 1000.0)
    at_once = len(turns.grant(1000.0)) * 10 * KB
    assert at_once <= 1000 * KB * CREDIT_SECONDS + 10 * KB


@given(
    asks=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 60 * KB), st.floats(0, 0.3)), max_size=40
    )
)
def test_everybody_gets_its_turn_once_in_the_order_it_asked(asks: list[tuple[int, int, int, float]]) -> None:
    turns, now, waiting = Turns(Limits(relay_total_bytes_per_second=200 * KB)), 0.0, list[tuple[bytes, int]]()
    granted = list[int]()
    for pair, peer, size, wait in asks:
        key = bytes([pair])
        waiting.append((key, turns.ask(key, bytes([pair, peer]), size, now)))
        granted += turns.grant(now)
        now += wait
        turns.forget_old(now)
    for _ in range(2 * len(asks)):
        if turns.deadline < math.inf:
            now = max(now, turns.deadline)
            granted += turns.grant(now)
    assert sorted(granted) == sorted(number for _, number in waiting)
    assert turns.deadline == math.inf
    assert turns.grant(now + 1) == []
