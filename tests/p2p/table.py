"""A few real round machines at one table: the test chooses what is delivered next, and time stands still meanwhile.

Words are replaced by names: a piece is named by its peer and chunk, a sum by its pieces, a state by its sums. So two
peers that summed different pieces end on different states.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import pytest

from discod.errors import PeerError, Refused
from discod.p2p import effects as fx
from discod.p2p.attempt import Attempt
from discod.p2p.chain import Chain
from discod.p2p.round import Round
from discod.p2p.rules import Rules, Spent
from discod.ring import chunk_bounds
from discod.wire.codec import digest
from discod.wire.rounds import (
    Advert,
    Ask,
    Head,
    Links,
    Message,
    Proof,
    Signed,
    State,
    head_hash,
    make_envelope,
    parse_envelope,
)
from tests.p2p.world import SCOPE, FakeKeyring, genesis, peer_id

WORDS = 320
DIRECT = (Advert.kind, Links.kind, Proof.kind, Ask.kind, State.kind)  # never passed on: in order on every link
Input = Callable[[Round, float], list[fx.Effect]]
Call = Callable[[], None]


def sign(sender: bytes, body: Message, rid: bytes, slot: int = 0, scope: bytes = SCOPE) -> Signed:
    """As `sender` would sign it, or has signed it."""
    return FakeKeyring(sender, frozenset()).sign(make_envelope(scope, rid, sender, body, slot))


def machine_of(peer: bytes, everybody: Collection[bytes], rules: Rules, base: Head | None = None) -> Round:
    """A machine whose entropy depends on its peer alone: the same inputs have the same effects."""
    entropy = random.Random(peer).randbytes
    return Round(rules, FakeKeyring(peer, frozenset(everybody)), Chain(base or genesis()), Spent(), entropy, 0)


def picture(thing: Any, without: Collection[str] = ()) -> Any:
    """Everything a machine knows, as plain values that can be compared; functions and keys are left out."""
    if isinstance(thing, dict):
        return {key: picture(value, without) for key, value in thing.items()}
    if isinstance(thing, list | tuple | deque):
        return [picture(value, without) for value in thing]
    if isinstance(thing, set | frozenset):
        return set(thing)
    if isinstance(thing, FakeKeyring | Message | Signed) or callable(thing):
        return thing if isinstance(thing, Message | Signed) else None
    if is_dataclass(thing):
        return {f.name: picture(getattr(thing, f.name), without) for f in fields(thing) if f.name not in without}
    if type(thing).__module__.startswith("discod.p2p") and hasattr(thing, "__dict__"):
        known = {name: value for name, value in vars(thing).items() if name not in (*without, "_candidates")}  # a memo
        return {name: picture(value, without) for name, value in known.items()}
    return thing


class Seat:
    """One peer and its shell."""

    def __init__(self, peer: bytes, everybody: Collection[bytes], rules: Rules) -> None:
        self.peer = peer
        self.machine = machine_of(peer, everybody, rules)
        self.head = genesis()
        self.sums: dict[tuple[bytes, int], bytes] = {}
        self.inputs: list[tuple[float, Input, fx.Effect | None]] = []  # when, what, in answer to what
        self.effects: list[fx.Effect] = []

    @property
    def attempt(self) -> Attempt:
        assert self.machine.attempt is not None
        return self.machine.attempt


class Table:
    """Peers that are all linked. `choose(k)` names one of the k queues with something in them."""

    def __init__(
        self, peers: int, choose: Callable[[int], int], relayed: bool = False, *, secure: bool = False
    ) -> None:
        self.rules = Rules(SCOPE, WORDS, min_peers=peers, secure=secure)
        self.now = 0.0
        everybody = [peer_id(n) for n in range(peers)]
        self.seats = {peer: Seat(peer, everybody, self.rules) for peer in everybody}
        self.said: list[Signed] = []
        self.heard: Callable[[Seat, Signed], None] = lambda seat, signed: None
        self._choose, self.relayed = choose, relayed
        self._queues: dict[tuple[bytes, bytes], list[tuple[str, Call]]] = {}

    def sit(self) -> None:
        """Everybody starts, links with everybody, and has trained."""
        for seat in self.seats.values():
            self.give(seat, lambda m, now: m.start(now))
        for a in self.seats:
            for b in self.seats:
                if a != b:
                    self._job(self.seats[a], partial(linked, b))
        for seat in self.seats.values():
            self._train(seat)

    def give(self, seat: Seat, call: Input, answer: fx.Effect | None = None) -> None:
        """One input, noted, and its effects."""
        effects = call(seat.machine, self.now)
        seat.inputs.append((self.now, call, answer))
        seat.effects += effects
        for effect in effects:
            self._perform(seat, effect)

    def run(self, until: Callable[[], bool], steps: int = 20_000) -> bool:
        """Deliver, and let time pass only when nothing is on its way; whether `until` came true."""
        for _ in range(steps):
            if until():
                return True
            waiting = [queue for queue in self._queues.values() if queue]
            if waiting:
                self._take(waiting[self._choose(len(waiting))])()
            else:
                self.pass_time()
        return False

    def pass_time(self) -> None:
        """To the next deadline; all that have one then are told."""
        self.now = min(seat.machine.deadline for seat in self.seats.values())
        for seat in self.seats.values():
            if seat.machine.deadline <= self.now:
                self.give(seat, lambda m, now: m.tick(now))
                assert seat.machine.deadline > self.now, "a deadline that has passed and stays"

    def _take(self, queue: list[tuple[str, Call]]) -> Call:
        """What can come next out of a queue: the first, or what may overtake it."""
        kinds = [kind for kind, _ in queue]
        until = kinds.index("direct") + 1 if "direct" in kinds else len(kinds)
        free = ("round", "bulk") if self.relayed else ("bulk",)  # may be overtaken
        may = [i for i in range(until) if set(kinds[:i]) <= set(free) and not (kinds[i] == "bulk" in kinds[:i])]
        return queue.pop(may[self._choose(len(may))])[1]

    def _put(self, kind: str, a: bytes, b: bytes, call: Call) -> None:
        self._queues.setdefault((a, b), []).append((kind, call))

    def _job(self, seat: Seat, call: Input, answer: fx.Effect | None = None) -> None:
        self._put("direct", seat.peer, seat.peer, partial(self.give, seat, call, answer))

    def _train(self, seat: Seat) -> None:
        self._job(seat, lambda m, now: m.training_began(now))
        self._job(seat, lambda m, now: m.update_ready(now))

    def _perform(self, seat: Seat, effect: fx.Effect) -> None:
        match effect:
            case fx.Send(to, signed):
                self.said.append(signed)
                kind = "direct" if parse_envelope(signed).kind in DIRECT else "round"
                self._put(kind, seat.peer, to, partial(self._deliver, self.seats[to], signed))
            case fx.SendPiece(to, rid, chunk):
                self._bulk(seat.peer, to, rid, "piece", chunk, piece_name(rid, seat.peer, chunk))
            case fx.SendSum(to, rid, chunk):
                self._bulk(seat.peer, to, rid, "sum", chunk, seat.sums[rid, chunk])
            case fx.Contribute() | fx.Combine() | fx.Apply():
                self._job(seat, self.answer(seat, effect), effect)
            case fx.SendSnapshot(to, _):
                head = seat.head
                self._put(
                    "bulk", seat.peer, to, partial(self.give, self.seats[to], lambda m, now: m.fetched(head, now))
                )
            case fx.Adopt(head):
                seat.head = head
                self._train(seat)
            case fx.Close(_, why, True) if why != "certified":
                self._train(seat)

    def answer(self, seat: Seat, effect: fx.Contribute | fx.Combine | fx.Apply) -> Input:
        """What the shell says when it has done it."""
        rid, chunks = effect.rid, range(len(self.seats))
        match effect:
            case fx.Contribute():
                hashes = tuple(piece_name(rid, seat.peer, chunk) for chunk in chunks)
                return lambda m, now: m.contributed(rid, hashes, now)
            case fx.Combine(_, chunk, included, _):
                name = seat.sums[rid, chunk] = sum_name(rid, included, chunk)
                return lambda m, now: m.combined(rid, chunk, name, now)
            case fx.Apply():
                sums = [seat.sums.get((rid, chunk), b"") for chunk in chunks]
                made = Head(SCOPE, seat.head.round + 1, head_hash(seat.head), 1.0, digest("test/state", *sums))
                return lambda m, now: m.applied(rid, made, now)

    def _deliver(self, seat: Seat, signed: Signed) -> None:
        with suppress(Refused):
            self.give(seat, lambda m, now: m.receive(signed, now))
        self.heard(seat, signed)

    def _bulk(self, a: bytes, b: bytes, rid: bytes, kind: str, chunk: int, name: bytes) -> None:
        self._put("bulk", a, b, partial(self._bulk_arrives, a, self.seats[b], rid, kind, chunk, name))

    def _bulk_arrives(self, a: bytes, seat: Seat, rid: bytes, kind: str, chunk: int, name: bytes) -> None:
        if not seat.machine.expects(a, rid, kind, chunk, size_of(chunk, len(self.seats))):
            return self._job(self.seats[a], lambda m, now: m.bulk_refused(seat.peer, rid, kind, chunk, now))
        if kind == "sum":
            seat.sums[rid, chunk] = name
        return self.give(seat, lambda m, now: m.bulk_arrived(a, rid, kind, chunk, name, now))


def linked(peer: bytes, machine: Round, now: float) -> list[fx.Effect]:
    return machine.link(peer, now)


def size_of(chunk: int, peers: int) -> int:
    """Bytes of a chunk's words."""
    a, b = chunk_bounds(WORDS, peers)[chunk]
    return 4 * (b - a)


def piece_name(rid: bytes, peer: bytes, chunk: int) -> bytes:
    return digest("test/piece", rid, peer, bytes([chunk]))


def sum_name(rid: bytes, included: Collection[bytes], chunk: int) -> bytes:
    return digest("test/sum", *(piece_name(rid, peer, chunk) for peer in included))


def refused(machine: Round, signed: Signed, now: float) -> str:
    """Why it is refused; it must be, and must change nothing."""
    before = picture(machine)
    with pytest.raises(PeerError) as refusal:
        machine.receive(signed, now)
    assert picture(machine) == before, f"refused ({refusal.value.why}), and still it changed something"
    return refusal.value.why
