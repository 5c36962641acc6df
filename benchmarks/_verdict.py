"""What a soak has shown: pure, from what the daemons told and what their disks held.

A state is named by the first 8 hex digits of its hash, as the daemons' events do. The main path is the final state and
its certified ancestors.

    hang        a peer told of no certified state for HANG_SECONDS; no fault lasts nearly as long, a quorum was alive
    divergent   a round with a certified state off the main path that a peer who told it did not leave in that time
    lost        a round that was told, or was told by a peer that was then killed, and that nobody holds afterwards
    recovery    from the end of a fault until all its victims (all peers, if it was the node) have told a round of the
                main path higher than any before that end
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from discod.p2p.terms import CERTIFY_SECONDS

HANG_SECONDS = 3 * CERTIFY_SECONDS  # of the deadlines of a round the one that every round has, and that ends it


class Told(NamedTuple):
    """A peer told that it holds a certified state."""

    time: float
    peer: str
    round: int
    state: str


class Ended(NamedTuple):
    """A fault that is over."""

    time: float
    victims: tuple[str, ...]


Parents = Mapping[str, str]  # state -> the state that it follows


def path_to(state: str, parents: Parents) -> set[str]:
    """The state and its ancestors as far as they are known."""
    found = {state}
    while (state := parents.get(state, "")) and state not in found:
        found.add(state)
    return found


def common_state(told: Iterable[Told], peers: Collection[str], after: float, above: int) -> Told | None:
    """The highest state of a round above this one that every peer has told since then."""
    recent = [one for one in told if one.time > after and one.round > above]
    by_peer = [{one.state for one in recent if one.peer == peer} for peer in peers]
    return max((one for one in recent if all(one.state in states for states in by_peer)), default=None, key=_height)


def tip_of(told: Iterable[Told]) -> Told | None:
    """Where most peers stood last; of several, the highest."""
    last = {one.peer: one for one in sorted(told)}
    states = [one.state for one in last.values()]
    return max(last.values(), default=None, key=lambda one: (states.count(one.state), one.round))


def hangs(told: Sequence[Told], peers: Collection[str], begin: float, end: float) -> list[str]:
    """One sentence for each time that a peer told nothing for too long."""
    found = []
    for peer in sorted(peers):
        times = [begin, *sorted(one.time for one in told if one.peer == peer and begin < one.time < end), end]
        for before, after in pairwise(times):
            if after - before > HANG_SECONDS:
                found.append(f"{peer} told of no certified state from {before - begin:.1f} s to {after - begin:.1f} s")
    return found


def forks(told: Iterable[Told], main: Collection[str]) -> list[Told]:
    """What was told off the main path."""
    return [one for one in sorted(told) if one.state not in main]


def divergent(told: Sequence[Told], main: Collection[str]) -> set[int]:
    """The rounds in which a fork was not settled in time: whoever told its state did not come to the main path."""

    def left(fork: Told) -> bool:
        return any(
            one.peer == fork.peer and 0 < one.time - fork.time <= HANG_SECONDS and one.state in main for one in told
        )

    return {fork.round for fork in forks(told, main) if not left(fork)}


def lost(told: Iterable[Told], main: Collection[str]) -> set[int]:
    """The rounds that were told and of which the main path holds no state."""
    held = {one.round for one in told if one.state in main}
    return {one.round for one in told} - held


def forgotten(last: Told | None, base: str, parents: Parents) -> bool:
    """Whether the disk of a killed peer does not hold what it had told last."""
    return last is not None and last.state not in path_to(base, parents)


def recoveries(ended: Iterable[Ended], told: Sequence[Told], main: Collection[str]) -> Iterator[float | None]:
    """Seconds of each recovery; None: there was none."""
    for fault in ended:
        mark = max((one.round for one in told if one.time <= fault.time), default=0)
        times = [_first_above(mark, fault.time, peer, told, main) for peer in fault.victims]
        known = [one for one in times if one is not None]
        yield max(known) - fault.time if len(known) == len(times) else None


def _first_above(mark: int, since: float, peer: str, told: Iterable[Told], main: Collection[str]) -> float | None:
    times = (o.time for o in told if o.peer == peer and o.time > since and o.round > mark and o.state in main)
    return min(times, default=None)


def _height(one: Told) -> int:
    return one.round
