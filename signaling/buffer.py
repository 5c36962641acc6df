"""The federated buffer: whose updates wait, which are too old, when they make a version. Pure (protocol.md 7).

    receive  a contribution  -> Kept            (one slot per peer: a second one replaces the first)
                             -> Make            (it was the last one needed: version + 1, all slots empty)
             refused by name -> NotTaken        (nothing has changed)
    enter, lost, tick        -> Make            (all that are there have pushed; the oldest waited long enough)

A contribution is taken when 0 <= version - base <= cutoff; what is older is stale, what is newer comes from a node
that lost its state. A peer that goes on from the base it has sends, the next time, all it learned since that base: if
an earlier push of it from that base is in a version by now (`counted`), then it must be measured since that push. So
no step is ever in two versions.

asynchronous   capacity updates make a version, however many peers there are; max_age bounds the wait of the oldest.
               With a cutoff an update that is s versions behind is scaled by 1/sqrt(1 + s) (FedBuff, 2106.06639)
synchronous    everybody present has pushed, or the deadline since the first push is over; never fewer than the quorum.
               Who left is not waited for; what it pushed stays

The version grows by exactly one for each Make. The shell makes contribution, version and the new vector durable in one
transaction before it says Kept or shows the version to anybody. Vectors are not seen here. `now`: Unix seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

from discod.aggregators import RobustRule
from discod.errors import Refused
from discod.wire.federated import HostedTask


class State(Enum):
    """Whether it takes contributions."""

    FILLING = "filling"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Contribution:
    """An update of `peer` made from version `base`, or since its own push `since`; (32,) `hash` of its vector."""

    peer: bytes
    seq: int
    base: int
    since: int
    weight: int
    hash: bytes
    time: float


@dataclass(frozen=True, slots=True)
class Counted:
    """The last push of a peer that is in a version, and the version it was made from."""

    seq: int
    version: int
    base: int


@dataclass(frozen=True, slots=True)
class Kept:
    """Make this contribution durable, then acknowledge it; `again`: it is there already, only acknowledge it."""

    contribution: Contribution
    again: bool = False


@dataclass(frozen=True, slots=True)
class Make:
    """Make `version` from these contributions, ordered by peer, with these factors; durable before it is shown.

    The new vector is the old one plus sum(factor x weight x update) / sum(weight), or what `rule` makes of
    factor x update.
    """

    version: int
    parts: tuple[Contribution, ...]
    factors: tuple[float, ...]
    rule: RobustRule | None = None


Effect = Kept | Make


class NotTaken(Refused):
    """A contribution is refused; `code` says which rule, `counted` the push it must be measured from, if that is it."""

    def __init__(self, peer: bytes, code: str, why: str, counted: int = 0) -> None:
        super().__init__(peer, why)
        self.code, self.counted = code, counted


class Buffer:
    """One task's buffer, from what was on disk."""

    def __init__(
        self,
        task: HostedTask,
        version: int = 0,
        slots: Iterable[Contribution] = (),
        last: dict[bytes, int] | None = None,
        counted: dict[bytes, Counted] | None = None,
    ) -> None:
        self.task, self.version = task, version
        self.slots = {each.peer: each for each in slots}
        self.present: set[bytes] = set()
        self.last = dict(last or {})  # the newest push of each peer, kept or counted
        self.counted = dict(counted or {})
        self.refused: dict[str, int] = {}  # by code, since the start

    @property
    def state(self) -> State:
        """FINISHED after the task's last round."""
        return State.FINISHED if self.version >= self.task.round.rounds else State.FILLING

    @property
    def synchronous(self) -> bool:
        return self.task.rule.mode == "synchronous"

    @property
    def needed(self) -> int:
        """Updates that a version is made of at least, max_age apart."""
        return self.task.quorum if self.synchronous else self.task.capacity

    @property
    def cutoff(self) -> int:
        return 0 if self.synchronous else self.task.rule.cutoff

    @property
    def deadline(self) -> float:
        """When `tick` makes a version that would otherwise wait; inf when time changes nothing."""
        rule = self.task.rule
        if not self.slots or self.state is State.FINISHED or (self.synchronous and len(self.slots) < self.needed):
            return math.inf
        wait = rule.deadline_seconds if self.synchronous else rule.max_age_seconds or math.inf
        return min(each.time for each in self.slots.values()) + wait

    def enter(self, peer: bytes) -> None:
        """A peer is here and trains: in the synchronous mode the others wait for it."""
        self.present.add(peer)

    def lost(self, peer: bytes, now: float) -> list[Effect]:
        """A peer has left: nobody waits for it any more. What it pushed stays."""
        self.present.discard(peer)
        return self._make(now)

    def tick(self, now: float) -> list[Effect]:
        """Call at `deadline`."""
        return self._make(now)

    def check(self, peer: bytes, seq: int, base: int, since: int) -> None:
        """Whether a push that says this would be taken now.  Raises: NotTaken; nothing has changed then."""
        if self.state is State.FINISHED:
            raise self._no(peer, "finished", f"version {self.version} was the task's last")
        if base > self.version:
            raise self._no(peer, "future", f"made from version {base}, this is version {self.version}")
        if self.version - base > self.cutoff:
            behind = self.version - base
            raise self._no(peer, "stale", f"{behind} versions behind, {self.cutoff} are allowed")
        if seq < self.last.get(peer, 0) or (seq == self.last.get(peer, 0) and peer not in self.slots):
            raise self._no(peer, "replayed", f"push {seq} after push {self.last[peer]}")
        if since != (right := self.since(peer, base)):
            why = f"push {right} is in a version already" if right else f"push {since} is in no version"
            raise self._no(peer, "counted", why, right)

    def since(self, peer: bytes, base: int) -> int:
        """The push since which an update of this peer from `base` is measured; 0: from the base itself."""
        known = self.counted.get(peer)
        return known.seq if known is not None and known.base == base else 0

    def receive(self, contribution: Contribution, now: float) -> list[Effect]:
        """Take a contribution.  Raises: NotTaken; nothing has changed then."""
        peer, seq = contribution.peer, contribution.seq
        if self.state is not State.FINISHED and seq and seq == self.last.get(peer):
            return self._once_more(contribution)
        self.check(peer, seq, contribution.base, contribution.since)
        if (former := self.slots.get(peer)) is not None:  # what waits longest counts, however often it is replaced
            contribution = replace(contribution, time=min(former.time, contribution.time))
        self.slots[peer] = contribution
        self.last[peer] = seq
        return [Kept(contribution), *self._make(now)]

    def _once_more(self, contribution: Contribution) -> list[Effect]:
        """The same push again: its acknowledgement was lost. It counts once, here or in the version it is in."""
        peer = contribution.peer
        held = self.slots.get(peer)
        if held is not None and (held.hash, held.base) != (contribution.hash, contribution.base):
            raise self._no(peer, "equivocation", f"push {contribution.seq} was another one before")
        return [Kept(held or contribution, again=True)]

    def _no(self, peer: bytes, code: str, why: str, counted: int = 0) -> NotTaken:
        self.refused[code] = self.refused.get(code, 0) + 1
        return NotTaken(peer, code, why, counted)

    def _make(self, now: float) -> list[Effect]:
        if not self.slots or not self._is_due(now) or self.state is State.FINISHED:
            return []
        parts = tuple(self.slots[peer] for peer in sorted(self.slots))
        factors = tuple(self._factor(each) for each in parts)
        self.version += 1
        self.slots.clear()
        self.counted |= {each.peer: Counted(each.seq, self.version, each.base) for each in parts}
        return [Make(self.version, parts, factors, self.task.robust)]

    def _is_due(self, now: float) -> bool:
        if now >= self.deadline:
            return True
        if not self.synchronous:
            return len(self.slots) >= self.needed
        return len(self.slots) >= self.needed and self.present <= self.slots.keys()

    def _factor(self, contribution: Contribution) -> float:
        return 1.0 / math.sqrt(1 + self.version - contribution.base)
