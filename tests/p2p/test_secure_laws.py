"""The machine laws of docs/architecture.md for secure rounds: anything that anybody signs, in any state of a round."""

from __future__ import annotations

import random
from functools import cache

import hypothesis.strategies as st
import msgspec
from hypothesis import given, settings

from discod.errors import PeerError
from discod.p2p import effects as fx
from discod.p2p.round import Round
from discod.p2p.secagg import BOX_BYTES, SHARE_BYTES
from discod.wire import rounds as wire
from discod.wire.codec import encode
from discod.wire.rounds import NO_RID, Message, Signed, Unmask, parse_body, parse_envelope
from tests.p2p.table import Seat, Table, machine_of, picture, sign
from tests.p2p.world import peer_id


def table(seed: int, relayed: bool = False) -> Table:
    made = Table(4, random.Random(seed).randrange, relayed, secure=True)
    made.sit()
    return made


def finished(made: Table) -> bool:
    return all(seat.head.round >= 1 for seat in made.seats.values())


@cache
def recorded() -> Table:
    made = table(seed=3)
    assert made.run(lambda: finished(made))
    return made


@cache
def played() -> Seat:
    return sorted(recorded().seats.values(), key=lambda seat: len(seat.inputs))[-1]


def replayed(inputs: int) -> tuple[Round, float, list[fx.Effect]]:
    """Its machine after so many inputs, the time, and all it has asked for."""
    seat, effects = played(), list[fx.Effect]()
    machine, now = machine_of(seat.peer, recorded().seats, recorded().rules), 0.0
    for now, call, _ in seat.inputs[:inputs]:
        effects += call(machine, now)
    return machine, now, effects


PEERS = sorted(recorded().seats)
OTHERS = [peer for peer in PEERS if peer != played().peer]
RID = next(e.rid for e in played().effects if isinstance(e, fx.Open))
SAID = sorted(set(recorded().said), key=encode)
THEIRS = st.sampled_from([s for s in SAID if parse_envelope(s).sender != played().peer])
MASKED = ("shares", "have", "start", "consent", "unmask", "manifest", "propose")
BITS = st.sampled_from([b"\x0f", b"\x07", b"\x0e", b"\x01", b"\x00", b"\xff", b"", b"\x0f\x00"])
BYTES = st.sampled_from([0, 1, 32, SHARE_BYTES - 1, SHARE_BYTES, BOX_BYTES, BOX_BYTES + 1]).map(bytes)
SLOT = st.sampled_from([0, 1, 2, 3, -1, 1 << 33])


def several(item: st.SearchStrategy[Signed]) -> st.SearchStrategy[tuple[Signed, ...]]:
    return st.lists(item, max_size=4).map(tuple)


@st.composite
def twisted(draw: st.DrawFn) -> Message:
    """A true message with one field exchanged for another's, or cut."""
    kind = draw(st.sampled_from(MASKED))
    bodies = [body for s in SAID if (body := parse_body(parse_envelope(s))).kind == kind]
    one, other = draw(st.sampled_from(bodies)), draw(st.sampled_from(bodies))
    field = draw(st.sampled_from(one.__struct_fields__))
    value = getattr(other, field)
    if isinstance(value, tuple):
        value = draw(st.sampled_from([value, value[1:], value[:1] * len(value), (*value, *value[:1]), ()]))
    return msgspec.structs.replace(one, **{field: value})


MADE_UP: st.SearchStrategy[Message] = st.one_of(
    st.builds(wire.Shares, BYTES),
    st.builds(wire.Have, BITS),
    st.builds(wire.Start, BITS, several(THEIRS)),
    st.builds(Unmask, st.just(RID) | BYTES, st.lists(BYTES, max_size=5).map(tuple), THEIRS, several(THEIRS)),
    twisted(),
    twisted(),
)
SIGNER = st.sampled_from([*OTHERS, *OTHERS, peer_id(9)])
STEP = st.builds(sign, SIGNER, MADE_UP, st.sampled_from([RID, RID, RID, NO_RID]), SLOT | st.just(0)) | THEIRS


def words_in_my_mouth(machine: Round, signed: Signed) -> bool:
    """Whether it carries what this machine, in the recorded round, has signed only later: only my key can."""
    said = {mine for mine, _ in machine.voice.said}
    later = (s for s in SAID if parse_envelope(s).sender == machine.keyring.me and s not in said)
    return any(one.envelope in signed.envelope for one in later)


@given(inputs=st.integers(0, len(played().inputs)), steps=st.lists(STEP, max_size=8))
@settings(max_examples=80)
def test_anything_in_any_state_has_effects_or_is_refused_and_changes_nothing(inputs: int, steps: list[Signed]) -> None:
    """And whatever comes, the machine shows its shares for one sum at most, and masks once."""
    machine, now, effects = replayed(inputs)
    for signed in steps:
        if words_in_my_mouth(machine, signed):
            continue
        before = picture(machine)
        try:
            effects += machine.receive(signed, now)
        except PeerError:
            assert picture(machine) == before
    sent = {e.signed.envelope: parse_envelope(e.signed) for e in effects if isinstance(e, fx.Send)}
    mine = [(e.kind, e.rid) for e in sent.values() if e.sender == machine.keyring.me]
    assert mine.count((Unmask.kind, RID)) <= 1
    assert sum(isinstance(e, fx.Contribute) for e in effects) <= 1
