"""Training in bad weather: parted and rejoined, and held up by one slow line."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import pairwise

import pytest

from discod.p2p.terms import MOVE_SECONDS, VIEW_SECONDS
from tests.faults.crew import Peer, a_task
from tests.netlab.town import NODE, Town, open_town

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400), pytest.mark.xdist_group("lab")]

UNHURRIED = "stand-in:5000:0.3"  # a round takes about a second: there are enough left when the weather clears
NOTICE_SECONDS = 60.0  # to miss a peer (20 s without a byte), and then two attempts of a round
RETURN_SECONDS = 120.0  # to dial again: waits grow to 45 s
SILENCE_SECONDS = 75.0  # a node drops who is silent for 60 s, a round without a certificate ends after 30 s

HEAVY_FLOATS, MBIT, STRAGGLE_SECONDS = 500_000, 10.0, 5.0  # 2 MB, 1.6 s on a line of so many Mbit/s


@pytest.fixture
def unhurried(able: None) -> Iterator[Town]:
    with open_town(UNHURRIED) as opened:
        yield opened


def rounds(peer: Peer) -> list[int]:
    """What it said to hold, in the order of saying."""
    return [event["round"] for event in peer.all("round.certified")]


def never_goes_back(peer: Peer) -> bool:
    return all(earlier < later for earlier, later in pairwise(rounds(peer)))


def is_in_a_round_of_all(peer: Peer, after: int) -> bool:
    return any(told["round"] > after for told in peer.all("round.finished", roster=sorted(peer.crew.peers)))


def test_parted_the_majority_goes_on_and_rejoined_all_end_with_one_model(unhurried: Town) -> None:
    crew, lab = unhurried.crew, unhurried.lab
    a, b, c, d, e = unhurried.settle(homes="acd", reachable="e", street="b")
    crew.meet()
    crew.train(a_task("secure", rounds=70, min_peers=3, quorum="majority"))
    crew.reach(3, *"abcde")
    lab.part(["a", "b", "c", NODE], ["d", "e"])
    at = max(peer.round for peer in crew.peers.values())
    crew.until(lambda: min(peer.round for peer in (a, b, c)) >= at + 4, "three of five go on", NOTICE_SECONDS)
    crew.until(lambda: all(p.all("peer.disconnected", peer="a") for p in (d, e)), "two miss the others", NOTICE_SECONDS)
    assert max(d.round, e.round) <= at + 1
    parted = max(peer.round for peer in crew.peers.values())
    lab.clear()
    crew.until(lambda: all(is_in_a_round_of_all(peer, parted) for peer in (d, e)), "all are in again", RETURN_SECONDS)
    crew.until(lambda: all(peer.ended for peer in crew.peers.values()), "all have finished", RETURN_SECONDS)
    crew.finish()
    assert all(map(never_goes_back, crew.peers.values()))


def test_after_a_silence_longer_than_every_deadline_all_go_on_by_themselves(unhurried: Town) -> None:
    crew, lab = unhurried.crew, unhurried.lab
    peers = unhurried.settle(homes="abc", street="d")
    crew.meet()
    crew.train(a_task("secure", rounds=20, min_peers=4))
    crew.reach(3, *"abcd")
    lab.silence()
    began = time.monotonic()
    others = len(peers) - 1
    crew.until(
        lambda: all(len(peer.all("peer.disconnected")) >= others and peer.all("signaling.lost") for peer in peers),
        "everybody misses everybody",
        SILENCE_SECONDS,
    )
    crew.until(lambda: time.monotonic() - began > SILENCE_SECONDS, "every deadline is over", SILENCE_SECONDS + 1)
    at = max(peer.round for peer in peers)
    lab.clear()
    crew.until(lambda: min(peer.round for peer in peers) >= at + 3, "all go on", RETURN_SECONDS)
    crew.finish()
    assert all(map(never_goes_back, peers))


def exchange_seconds(peers: Iterable[Peer], number: int) -> float:
    """From the last of these updates to the last of these peers that holds the round."""
    shared, certified = (
        [told["time"] for peer in peers for told in peer.all(event, round=number)]
        for event in ("round.shared", "round.certified")
    )
    return float(max(certified) - max(shared))


def test_one_slow_line_does_not_hold_the_others_beyond_the_straggle(able: None) -> None:
    with open_town(f"stand-in:{HEAVY_FLOATS}:0.2") as town:
        crew = town.crew
        a, b, c, d = town.settle(homes="bd", street="ac")
        for peer in (a, b, c, d):
            town.lab.limit(town.lab.hosts[peer.name], MBIT / 10 if peer is d else MBIT)
        crew.meet()
        crew.train(a_task("secure", rounds=5, min_peers=3, straggle_seconds=STRAGGLE_SECONDS))
        crew.until(lambda: all(peer.ended for peer in (a, b, c)), "the fast ones have finished", RETURN_SECONDS)
        slowest = max(exchange_seconds((a, b, c), number) for number in range(1, 6))
        line_seconds = 2 * 3 / 4 * HEAVY_FLOATS * 4 * 8 / (MBIT / 10 * 1e6)  # what the slow line alone would need
        deadline = (
            STRAGGLE_SECONDS + VIEW_SECONDS + MOVE_SECONDS
        )  # then also the chunk that the slow one owns has moved
        assert deadline < line_seconds / 1.5
        assert slowest < deadline
        crew.until(lambda: d.ended, "the slow one has the model", RETURN_SECONDS)
        crew.finish()
