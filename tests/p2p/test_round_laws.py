"""The machine laws of docs/architecture.md, for the round machine.

A recorded round of four real machines gives the states that one of them passes through, and messages that look right.
Whatever anybody then makes of these, signs and sends, the laws hold.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discod.errors import PeerError
from discod.p2p import effects as fx
from discod.p2p.round import Round
from discod.p2p.terms import VIEWS
from discod.wire import rounds as wire
from discod.wire.codec import digest, encode
from discod.wire.rounds import NO_RID, Done, Leave, Message, Roster, Signed, head_hash, parse_envelope
from tests.p2p.table import Seat, Table, machine_of, picture, refused, sign, size_of
from tests.p2p.world import SCOPE, FakeKeyring, genesis, peer_id

SEEDS = st.integers(0, 2**32)
Asked = fx.Contribute | fx.Combine | fx.Apply


def table(peers: int, seed: int, relayed: bool = False) -> Table:
    made = Table(peers, random.Random(seed).randrange, relayed)
    made.sit()
    return made


def finished(made: Table, rounds: int = 1) -> bool:
    return all(seat.head.round >= rounds for seat in made.seats.values())


def first_states(made: Table) -> set[bytes]:
    """What the peers stood on after the first round."""
    adopted = [e.head for seat in made.seats.values() for e in seat.effects if isinstance(e, fx.Adopt)]
    return {head_hash(head) for head in adopted if head.round == 1}


@cache
def recorded() -> Table:
    made = table(4, seed=3)
    assert made.run(lambda: finished(made))
    return made


@cache
def played() -> Seat:
    """The peer whose part the tests below play: neither leader nor last to know."""
    return sorted(recorded().seats.values(), key=lambda seat: len(seat.inputs))[-1]


def replayed(inputs: int) -> tuple[Round, float, list[Asked]]:
    """Its machine after so many inputs, the time, and what its shell was asked and has not answered yet."""
    seat, asked = played(), list[Asked]()
    machine, now = machine_of(seat.peer, recorded().seats, recorded().rules), 0.0
    for now, call, answered in seat.inputs[:inputs]:
        asked = [effect for effect in (*asked, *questions(call(machine, now))) if effect != answered]
    return machine, now, asked


def questions(effects: list[fx.Effect]) -> list[Asked]:
    return [effect for effect in effects if isinstance(effect, Asked)]


ROSTER = next(signed for signed in recorded().said if parse_envelope(signed).kind == Roster.kind)
RID = parse_envelope(ROSTER).rid
PEERS = sorted(recorded().seats)
HASHES = sorted({RID, NO_RID, head_hash(genesis()), head_hash(played().head), digest("test/else")})
STATE_INPUTS = st.integers(0, len(played().inputs))


SIGNER = st.sampled_from([*(peer for peer in PEERS if peer != played().peer), peer_id(9)])
PEER = st.sampled_from([*PEERS, peer_id(9)])
HASH = st.sampled_from([*HASHES, *(digest("discod/u1/1", RID, b"\x0f"),), b"", b"short"])
NUMBER = st.sampled_from([0, 1, 2, 3, -1, 1 << 16, (1 << 16) + 1, 3 << 16, -(1 << 16), VIEWS, 1 << 33, 2**63 - 1])
BITS = st.sampled_from([b"\x0f", b"\x07", b"\x0e", b"\x01", b"\x00", b"\xff", b"", b"\x0f\x00"])
TEXT = st.sampled_from(["", "busy", "\x1b[2J" * 99])
SAID = st.sampled_from(sorted(set(recorded().said), key=encode))
HEAD = st.builds(wire.Head, HASH, NUMBER, HASH, st.sampled_from([1.0, math.nan, -math.inf]), HASH).map(encode)


def several(item: st.SearchStrategy[Signed]) -> st.SearchStrategy[tuple[Signed, ...]]:
    return st.lists(item, max_size=4).map(tuple)


def bodies(said: st.SearchStrategy[Signed]) -> st.SearchStrategy[Message]:
    certificate = st.builds(wire.Certificate, NUMBER, HASH, HASH, several(said), NUMBER, several(said))
    pieces = st.lists(st.tuples(PEER, HASH), max_size=3).map(tuple)
    return st.one_of(
        st.builds(wire.Advert, NUMBER, st.just(bytes(16)), NUMBER, HASH, HASH, st.just(((PEERS[0], 10**9),))),
        st.builds(wire.Links, NUMBER, st.just(tuple(PEERS)), NUMBER, HASH, st.booleans()),
        st.builds(Roster, several(said)),
        st.builds(wire.Have, BITS),
        st.builds(wire.Manifest, HASH, st.lists(HASH, min_size=3, max_size=5).map(tuple)),
        st.builds(wire.Receipt, NUMBER, pieces),
        st.builds(wire.Propose, NUMBER, BITS, HASH, BITS, several(said)),
        st.builds(wire.Reassign, NUMBER, BITS),
        st.builds(wire.View, NUMBER, st.none() | said, st.none() | said),
        st.builds(wire.Consent, HASH),
        st.builds(wire.Sum, HASH, NUMBER, HASH),
        st.builds(Done, HASH),
        st.builds(Leave, TEXT),
        st.builds(wire.Ask, NUMBER, HASH),
        st.builds(wire.State, NUMBER, st.lists(certificate, max_size=2).map(tuple), HEAD | HASH),
        st.builds(wire.Proof, said, said),
    )


def signed_by_anybody(said: st.SearchStrategy[Signed]) -> st.SearchStrategy[Signed]:
    scope = st.sampled_from([SCOPE, SCOPE, SCOPE, digest("test/another task")])
    rid = st.sampled_from([RID, RID, NO_RID, wire.parse_envelope(SAID_ADVERT).rid, HASHES[0]])
    return st.builds(sign, SIGNER, bodies(said), rid, NUMBER, scope)


SAID_ADVERT = next(signed for signed in recorded().said if parse_envelope(signed).kind == wire.Advert.kind)
BAD = st.just(Signed(SAID_ADVERT.envelope, bytes(64))) | st.just(Signed(b"?", bytes(64)))
MADE_UP = signed_by_anybody(SAID | BAD | signed_by_anybody(SAID))
BULK = st.tuples(PEER, st.sampled_from([RID, NO_RID]), st.sampled_from(["piece", "sum", "else"]), NUMBER, HASH)
STEP = st.one_of(MADE_UP, MADE_UP, MADE_UP, MADE_UP, SAID, BAD, BULK, SIGNER)
STEPS = st.lists(st.tuples(STEP, st.sampled_from([0.0, 0.1, 3.0, 30.0])), max_size=10)
Step = Signed | tuple[bytes, bytes, str, int, bytes] | bytes


def take(machine: Round, step: Step, now: float) -> list[fx.Effect]:
    """A message; words that arrived; a link that is lost, or comes (back). Raises PeerError."""
    if isinstance(step, Signed):
        return [] if words_in_my_mouth(machine, step) else machine.receive(step, now)
    if isinstance(step, bytes):
        return machine.lost(step, now) if step in machine.voice.linked else machine.link(step, now)
    peer, rid, kind, chunk, hash_ = step
    if not machine.expects(peer, rid, kind, chunk, size_of(chunk, len(PEERS)) if 0 <= chunk < len(PEERS) else 64):
        return []
    return machine.bulk_arrived(peer, rid, kind, chunk, hash_, now)


def words_in_my_mouth(machine: Round, signed: Signed) -> bool:
    """Whether it carries what this machine, in the recorded round, has signed only later: only my key can."""
    said = {signed for signed, _ in machine.voice.said}
    mine = (s for s in recorded().said if parse_envelope(s).sender == machine.keyring.me and s not in said)
    return any(later.envelope in signed.envelope for later in mine)


def lived(inputs: int, steps: list[tuple[Step, float]]) -> Iterator[tuple[Round, Callable[[], list[fx.Effect]], float]]:
    """A machine in some state, and what happens next: the steps, what is due, then the rest of the recorded round."""
    machine, now, asked = replayed(inputs)
    rest = [call for _, call, answered in played().inputs[inputs:] if answered is None]

    def noting(call: Callable[[], list[fx.Effect]]) -> list[fx.Effect]:
        effects = call()
        asked.extend(questions(effects))
        return effects

    for step, wait in steps:
        yield machine, partial(noting, partial(take, machine, step, now)), now
        now = min(now + wait, machine.deadline)
        yield machine, partial(noting, partial(machine.tick, now)), now
    while rest or asked:
        call = rest.pop(0) if rest else recorded().answer(played(), asked.pop(0))
        yield machine, partial(noting, partial(call, machine, now)), now


@given(inputs=STATE_INPUTS, steps=STEPS)
def test_anything_in_any_state_has_effects_or_is_refused_and_changes_nothing(
    inputs: int, steps: list[tuple[Step, float]]
) -> None:
    for machine, call, _ in lived(inputs, steps):
        before = picture(machine)
        try:
            call()
        except PeerError:
            assert picture(machine) == before


@given(inputs=STATE_INPUTS, steps=STEPS)
def test_nothing_is_done_for_an_attempt_after_its_end(inputs: int, steps: list[tuple[Step, float]]) -> None:
    closed: set[bytes] = set()
    for machine, call, _ in lived(inputs, steps):
        effects: list[fx.Effect] = []
        with suppress(PeerError):
            effects = call()
        for effect in effects:
            if isinstance(effect, fx.Close):
                assert effect.rid not in closed
                closed.add(effect.rid)
            if isinstance(effect, fx.Open | fx.Contribute | fx.Combine | fx.Apply | fx.SendPiece | fx.SendSum):
                assert effect.rid not in closed
            if isinstance(effect, fx.Send) and (envelope := parse_envelope(effect.signed)).rid in closed:
                assert envelope.kind in (Leave.kind, Done.kind) or envelope.sender != machine.keyring.me
        assert machine.attempt is None or machine.attempt.terms.rid not in closed


@given(inputs=STATE_INPUTS, steps=STEPS)
def test_a_deadline_comes_or_is_called_off_but_is_never_put_off(inputs: int, steps: list[tuple[Step, float]]) -> None:
    for machine, call, now in lived(inputs, steps):
        attempt = machine.attempt
        before = copy.copy(attempt.clocks) if attempt is not None else None
        with suppress(PeerError):
            call()
        if before is None or machine.attempt is not attempt or attempt is None:
            continue
        for field in ("have", "straggle", "view", "consents", "certify", "move", "resend"):
            was, is_ = getattr(before, field), getattr(attempt.clocks, field)
            assert is_ <= was or is_ == math.inf or now >= was, field


@given(inputs=STATE_INPUTS, steps=STEPS)
def test_a_tick_at_the_deadline_does_what_is_due(inputs: int, steps: list[tuple[Step, float]]) -> None:
    for machine, call, now in lived(inputs, steps):
        with suppress(PeerError):
            call()
        machine.tick(now)
        assert machine.deadline > now
        before = machine.deadline
        assert machine.tick(now) == []
        assert machine.deadline == before


@pytest.mark.parametrize("relayed", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_heard_twice_changes_nothing(seed: int, relayed: bool) -> None:
    """At once, or later in the round. A question is answered again, and so is who has missed something."""
    made = table(4, seed, relayed)
    rng, again, repeats = random.Random(seed), dict[bytes, list[Signed]](), 0

    def repeat(seat: Seat, signed: Signed) -> None:
        nonlocal repeats
        again.setdefault(seat.peer, []).append(signed)
        for repeated in (signed, rng.choice(again[seat.peer])):
            kind = parse_envelope(repeated).kind
            if kind == wire.Ask.kind:
                continue
            before, effects = picture(seat.machine, without=("_early",)), []
            with suppress(PeerError):
                effects = seat.machine.receive(repeated, made.now)
            assert picture(seat.machine, without=("_early",)) == before
            assert effects == [] or kind in (wire.View.kind, Roster.kind)
            repeats += 1

    made.heard = repeat
    assert made.run(lambda: finished(made, 2))
    assert repeats > 400


def test_strangers_are_refused_in_every_state() -> None:
    stranger = peer_id(9)
    for inputs in range(0, len(played().inputs), 5):
        machine, now, _ = replayed(inputs)
        for body in (wire.Have(b""), wire.Consent(HASHES[0]), Leave(""), wire.Ask(1, b"")):
            assert refused(machine, sign(stranger, body, RID), now) == "a stranger"


def test_a_member_outside_the_roster_is_refused() -> None:
    machine, now, _ = replayed(len(played().inputs) // 2)
    assert machine.attempt is not None
    machine.keyring = machine.voice.keyring = FakeKeyring(machine.keyring.me, frozenset({*PEERS, peer_id(9)}))
    machine.attempt.tally._check = machine.keyring.check
    assert refused(machine, sign(peer_id(9), wire.Consent(HASHES[0]), RID), now) == "not in this roster"
    assert refused(machine, sign(peer_id(9), Done(HASHES[0]), RID), now) == "a Done from outside the roster"


def test_what_comes_before_its_roster_is_held_for_it() -> None:
    """All that the others said of the round comes first, the Roster last: the machine is where it would have been."""
    seat = played()
    made = table(4, seed=3)
    assert made.run(lambda: any(s.machine.attempt is not None for s in made.seats.values()))
    late = made.seats[seat.peer]
    assert late.machine.attempt is None
    others = [p for p in PEERS if p != seat.peer]
    for peer in others:
        assert late.machine.receive(sign(peer, wire.Have(b""), RID), made.now) == []
    late.machine.receive(ROSTER, made.now)
    assert late.machine.attempt is not None
    assert late.machine.attempt.tally.present == set(PEERS)


@cache
def in_order(peers: int) -> set[bytes]:
    made = Table(peers, lambda k: 0)
    made.sit()
    assert made.run(lambda: finished(made))
    return first_states(made)


@given(peers=st.integers(2, 6), seed=SEEDS, relayed=st.booleans())
def test_the_order_of_delivery_does_not_matter(peers: int, seed: int, relayed: bool) -> None:
    made = table(peers, seed, relayed)
    assert made.run(lambda: finished(made))
    assert first_states(made) == in_order(peers)
    assert len(in_order(peers)) == 1
