"""The vectors of one task and the work on them, done in threads: encode, sum, apply, save.

    base        (d,) float32, certified; never written to, for it may be on its way to a peer
    rooms       the buffers of the attempts under way (room.py)
    candidate   a joint state that is on disk and may become the base

Every step that precedes a signature is durable when it returns: the spent record before a Manifest, the candidate
before a Done. Cancellation lets a thread finish; what it wrote is then found at the next start.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import trio

from discod.daemon.kept import Kept, Shelf
from discod.daemon.releasing import fresh_noise, scale_of
from discod.daemon.room import Room
from discod.errors import UserError
from discod.masks import Masks
from discod.p2p.terms import Terms
from discod.privacy.peers import Portion
from discod.ring import (
    BLOCK,
    FULL_WEIGHT,
    NO_WORDS,
    Codec,
    Encoded,
    NotFinite,
    Words,
    apply_mean,
    check_bound,
    combine,
    encode_chunk,
    shrinking,
    weight_word,
)
from discod.robust import join
from discod.train.joint import METRIC_WORDS, joint_totals, metric_words
from discod.train.layers import layout
from discod.train.rounds import Measured
from discod.train.task import TaskSpec
from discod.train.totals import Totals
from discod.train.vector import Vector
from discod.wire.rounds import Certificate, Head, Signed, head_hash, parse_envelope

SMALL_WORDS = BLOCK  # summing so few takes less than handing the work to a thread
THREADS = min(4, os.cpu_count() or 1)  # that encode one update
Notify = Callable[[str, dict[str, Any]], None]  # a stable event name and its fields
Reached = Callable[[str, int], None]  # a phase, the round


def reach_nothing(phase: str, round_number: int) -> None:
    """Nobody stops at any phase."""


class Candidate(NamedTuple):
    """A state on disk: its parameters (d,), and whose updates are in it, if known; what they measured before it."""

    head: Head
    parameters: Vector
    contributors: tuple[bytes, ...]
    joint: Totals | None = None
    sent: Portion | None = None  # what this peer has sent in the attempt that made it, if secure and noised


class Workshop:
    """One task's vectors. `reached` hears of each phase before what follows it is done."""

    def __init__(
        self, task: TaskSpec, scope: bytes, shelf: Shelf, kept: Kept, reached: Reached, notify: Notify
    ) -> None:
        self._task, self._scope, self._shelf, self.reached, self._notify = task, scope, shelf, reached, notify
        self.head, self.base, self.contributors = kept.head, kept.parameters, kept.roster
        self.measured: Measured | None = None  # by this peer
        self.joint: Totals | None = None  # by the peers whose updates are in the base, of the state before it
        self._told_of = b""  # the state of which a measurement was sent: never twice, sums would tell it apart
        self._rooms: dict[bytes, Room] = {}
        self._candidate: Candidate | None = None
        self._readers = 0
        self._read = trio.Event()

    @property
    def weighted(self) -> bool:
        """Whether the last word of an update is its weight; under noise and robust rules every peer counts alike."""
        return self._task.privacy.unit == "none" and self._task.robust is None

    @property
    def words(self) -> int:
        """Of an encoded update."""
        return len(self.base) + self._extra + self.weighted

    @property
    def _extra(self) -> int:
        """Words between vector and weight."""
        return METRIC_WORDS if self._task.privacy.metrics == "joint" else 0

    @property
    def state(self) -> bytes:
        """The (32,) hash of the base."""
        return head_hash(self.head)

    @property
    def next_round(self) -> int:
        """The round that an attempt under this base makes."""
        return self.head.round + 1

    def says(self, signed: Signed) -> None:
        """A message is about to leave: a phase too, for who wants to stop before it."""
        if self.reached is not reach_nothing:
            self.reached(f"say-{parse_envelope(signed).kind}", self.next_round)

    def open(self, rid: bytes, terms: Terms, bound: float) -> Room:
        """The buffers of an attempt, made when they are first asked for."""
        if rid not in self._rooms:
            scale = scale_of(self._task, len(self.base), bound, len(terms.roster), terms.threshold)
            self._rooms[rid] = Room(self.words, scale)
        return self._rooms[rid]

    def room(self, rid: bytes) -> Room | None:
        """The buffers of an attempt that is not closed."""
        return self._rooms.get(rid)

    def close(self, rid: bytes) -> None:
        """The attempt is over; a thread that works for it ends with nothing to do."""
        self._rooms.pop(rid, None)

    async def contribute(
        self, room: Room, rid: bytes, masks: Masks | None, local: Vector, origin: Vector, samples: int, batches: int
    ) -> tuple[bytes, ...]:
        """Encode `local` - `origin`, both (d,), under `masks`, and put its spent record on disk; the chunks' hashes.

        Raises: UserError (update-not-finite, disk-full).
        """
        self.reached("contribute", self.next_round)
        words = np.empty(self.words, np.uint32)
        state, weight, codec, extra = self.state, self._weight_word(samples), room.codec, self._metrics()

        def part(first: int, step: int) -> list[Encoded]:
            shrink, noise = 1.0, None
            if isinstance(codec, Portion):
                shrink, noise = shrinking(local, origin, codec.clip), fresh_noise(codec)
            chunks = range(first, codec.peers, step)
            return [encode_chunk(local, origin, codec, weight, words, c, masks, extra, shrink, noise) for c in chunks]

        try:
            encoded = await self._reading(part, 1 if words.size <= SMALL_WORDS else THREADS)
            await trio.to_thread.run_sync(self._shelf.spend, state, rid, batches)
            self._told_of = state
        except NotFinite as error:
            tensor = self._tensor_at(error.index)
            why = f"the update holds NaN or infinity in {tensor}"
            raise UserError(why, "lower training.learning_rate", code="update-not-finite") from None
        room.mine = words
        if clipped := sum(chunk.clipped for chunk in encoded):
            self._notify("update.clipped", {"round": self.next_round, "words": clipped, "of": words.size})
        self.reached("spent", self.next_round)
        return tuple(chunk.hashes[0] for chunk in encoded)

    async def combine(
        self, room: Room, chunk: int, included: tuple[bytes, ...], opening: Masks | None, me: bytes
    ) -> bytes:
        """Sum a chunk over exactly these peers and take `opening` off, or join it by the rule; the hash of that."""
        self.reached("combine", self.next_round)
        pieces, out = room.prepare(chunk, included, me)
        work = partial(combine, pieces, out, room.start(chunk), opening)
        if (rule := self._task.robust) is not None:
            assert isinstance(room.codec, Codec), "no task has both a robust rule and noise of its own"
            work = partial(join, pieces, out, rule, room.codec.bits)
        hash_ = work() if out.size <= SMALL_WORDS else await trio.to_thread.run_sync(work)
        room.combined(chunk, out, hash_)
        return hash_

    async def apply(self, room: Room, sums: tuple[bytes, ...], included: tuple[bytes, ...]) -> Head:
        """The next joint state, on disk. Raises: UserError (sum-out-of-bounds, sum-unknown, disk-full)."""
        self.reached("apply", self.next_round)
        before, base, total, peers, extra = self.head, self.base, room.total(sums), len(included), self._extra
        if self.weighted and not 0 < int(total[-1]) <= FULL_WEIGHT * room.codec.peers:
            raise UserError("the weights of the sum are out of bounds", code="sum-out-of-bounds")
        if not self.weighted and not peers:
            raise UserError("nobody has said whose updates are in the sum", code="sum-unknown")
        if (rule := self._task.robust) is not None:
            peers = rule.counted(peers)
        parameters = total[: len(base)].view(np.float32)  # in place: one vector less

        def work() -> Head:
            if not check_bound(total[: len(base)], room.codec, peers or room.codec.peers):
                raise UserError("a sum is larger than its updates can be", code="sum-out-of-bounds")
            made = apply_mean(base, total, room.codec, parameters, None if self.weighted else peers, extra)
            bound = before.bound if isinstance(room.codec, Portion) else made.next_bound
            head = Head(self._scope, before.round + 1, head_hash(before), bound, made.hash)
            self._shelf.save(head, parameters)
            return head

        head = await trio.to_thread.run_sync(work)
        joint = joint_totals(total[len(base) : len(base) + extra], peers or room.codec.peers) if extra else None
        sent = room.codec if isinstance(room.codec, Portion) and room.codec.together and room.mine is not None else None
        self._candidate = Candidate(head, parameters, included, joint, sent)
        self.reached("applied", head.round)
        return head

    async def keep(self, candidate: Candidate) -> None:
        """A state that may become the base, to disk. Raises: UserError (disk-full)."""
        await trio.to_thread.run_sync(self._shelf.save, candidate.head, candidate.parameters)
        self._candidate = candidate

    async def adopt(
        self, head: Head, certificate: Certificate, others: Iterable[Certificate], roster: tuple[bytes, ...], me: bytes
    ) -> None:
        """Make a state that was kept the base, on disk first. Raises: UserError (disk-full), BadData (damaged)."""
        self.reached("adopt", head.round)
        candidate, self._candidate = self._candidate, None
        if candidate is None or candidate.head != head:
            parameters = await trio.to_thread.run_sync(self._shelf.load_candidate, head)
            candidate = Candidate(head, parameters, ())
        included = len(candidate.contributors) if me in candidate.contributors else 0
        await trio.to_thread.run_sync(self._shelf.certify, certificate, list(others), candidate.sent, included)
        self.head, self.base, self.contributors = head, candidate.parameters, candidate.contributors or roster
        self.joint = candidate.joint
        self.reached("adopted", head.round)

    async def unread(self) -> None:
        """Wait until no thread reads a local vector: its memory may be unmapped after this. Not to be cancelled."""
        while self._readers:
            with trio.CancelScope(shield=True):
                await self._read.wait()

    async def _reading(self, work: Callable[[int, int], list[Encoded]], threads: int) -> list[Encoded]:
        """The chunks in order, each encoded in one of so many threads. Raises: NotFinite, of the first such chunk."""
        found: list[list[Encoded] | NotFinite] = [[]] * threads

        async def in_thread(first: int) -> None:
            try:
                found[first] = await trio.to_thread.run_sync(work, first, threads)
            except NotFinite as error:
                found[first] = error

        self._readers += 1
        try:
            async with trio.open_nursery() as nursery:
                for first in range(threads):
                    nursery.start_soon(in_thread, first)
        finally:
            self._readers -= 1
            self._read.set()
            self._read = trio.Event()
        parts = [part for part in found if not isinstance(part, NotFinite)]
        if len(parts) < threads:
            raise min((part for part in found if isinstance(part, NotFinite)), key=lambda error: error.index)
        return [parts[chunk % threads][chunk // threads] for chunk in range(sum(map(len, parts)))]

    def _metrics(self) -> Words:
        """What this peer says of the base: zeros once it has said so, or when it measured another state."""
        found = self.measured
        if not self._extra:
            return NO_WORDS
        return metric_words(found.totals if found and found.state == self.state != self._told_of else None)

    def _weight_word(self, samples: int) -> int | None:
        rule, task = self._task.aggregation, self._task
        if not self.weighted:
            return None
        if rule.weighting == "uniform":
            return FULL_WEIGHT
        return weight_word(samples, rule.weight_cap or task.round_duration * task.batch_size)

    def _tensor_at(self, index: int) -> str:
        """The tensor that holds an element of the vector."""
        place = layout(self._task)
        if place.d != len(self.base):
            return f"element {index}"
        return [name for name, offset in zip(place.names, place.offsets, strict=True) if offset <= index][-1]
