"""The faults of bench soak: what happens to whom and when, a pure function of the seed.

    kill        kill -9; started again at the end
    stop        SIGSTOP; SIGCONT at the end
    partition   every way between one or two peers and the rest is dead, the signaling node is on the side of the rest
    node        the signaling node is killed, and started again at the end
    slow        every way to and from one peer is slow and narrow

They come in fives, one of each kind. Of kill, stop and partition at most one is on at a time: all but one peer are
alive at every moment, and the rest of a partition is a quorum. A slow peer and the absence of the node may come on top.
After LONG_AFTER_SECONDS some stops and partitions outlast the idle limit of a link.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from discod.p2p.link import IDLE_SECONDS

Kind = Literal["kill", "stop", "partition", "node", "slow"]

KINDS: tuple[Kind, ...] = ("kill", "stop", "partition", "node", "slow")
DISABLING: tuple[Kind, ...] = ("kill", "stop", "partition")
FIRST_SECONDS = 3.0
EVERY_SECONDS = (6.0, 9.0)  # from the beginning of one to that of the next: 6.6 a minute at least
LASTS_SECONDS: dict[Kind, tuple[float, float]] = {
    "kill": (0.2, 4.0),
    "stop": (0.5, 5.5),
    "partition": (1.0, 5.5),
    "node": (0.2, 10.0),
    "slow": (4.0, 12.0),
}
LONG_SECONDS = (IDLE_SECONDS + 1, IDLE_SECONDS + 6)  # for a stop or a partition of which a link is dropped
LONG_AFTER_SECONDS, LONG_SHARE = 90.0, 1 / 4
DELAY_SECONDS = (0.02, 0.5)  # one way
BYTES_PER_SECOND = (20e3, 500e3)
TWO_AWAY = 5  # peers, from which on two may be cut off: the other three hold rounds


@dataclass(frozen=True, slots=True)
class Fault:
    """`victims` is empty when it is the signaling node."""

    begins: float  # seconds after the start
    ends: float
    kind: Kind
    victims: tuple[str, ...] = ()
    resets: bool = False  # partition: connections are reset and refused, else their bytes wait for its end
    delay: float = 0.0  # slow: seconds one way
    rate: float = 0.0  # slow: bytes a second


def schedule(seed: int, seconds: float, peers: Sequence[str]) -> list[Fault]:
    """All faults that begin before `seconds` and end by then, in the order in which they begin."""
    dice = random.Random(f"discod soak {seed}")
    faults: list[Fault] = []
    bag: list[Kind] = []
    at = FIRST_SECONDS
    free = dict.fromkeys(KINDS, 0.0)  # when each kind may begin
    while True:
        bag = bag or dice.sample(KINDS, len(KINDS))
        kind = next((kind for kind in bag if free[kind] <= at), min(bag, key=free.__getitem__))
        bag.remove(kind)
        at = max(at, free[kind])
        fault = _throw(dice, kind, at, peers)
        if fault.ends > seconds:
            return faults
        faults.append(fault)
        free |= dict.fromkeys(DISABLING if kind in DISABLING else (kind,), fault.ends)
        at += dice.uniform(*EVERY_SECONDS)


def _throw(dice: random.Random, kind: Kind, at: float, peers: Sequence[str]) -> Fault:
    is_long = kind in ("stop", "partition") and at > LONG_AFTER_SECONDS and dice.random() < LONG_SHARE
    ends = at + dice.uniform(*(LONG_SECONDS if is_long else LASTS_SECONDS[kind]))
    if kind == "node":
        return Fault(at, ends, kind)
    victims = tuple(sorted(dice.sample(peers, dice.choice((1, 2)) if len(peers) >= TWO_AWAY else 1)))
    if kind == "partition":
        return Fault(at, ends, kind, victims, resets=dice.random() < 0.5)
    if kind == "slow":
        return Fault(
            at, ends, kind, victims[:1], delay=dice.uniform(*DELAY_SECONDS), rate=dice.uniform(*BYTES_PER_SECOND)
        )
    return Fault(at, ends, kind, victims[:1])


def steps(faults: Sequence[Fault]) -> list[tuple[float, bool, Fault]]:
    """(when, whether it begins, which), in order of time; what ends at a moment ends before anything begins then."""
    both = [(f.begins, True, f) for f in faults] + [(f.ends, False, f) for f in faults]
    return sorted(both, key=lambda step: (step[0], step[1]))
