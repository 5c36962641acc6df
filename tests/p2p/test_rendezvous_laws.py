"""The machine laws, for the member's and the newcomer's side of signaling."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discod.errors import Broken, PeerError
from discod.identity import (
    Identity,
    Members,
)
from discod.p2p import rendezvous as rv
from discod.wire.codec import encode
from discod.wire.signaling import (
    Beat,
    Declined,
    Denied,
    Found,
    FromNode,
    Left,
    Petition,
    Present,
    Room,
    Signaled,
    Spliced,
    Ticket,
)
from tests.p2p.test_rendezvous import (
    EVE,
    KEY,
    NONCE,
    A,
    B,
    C,
    found,
    hello,
    inviting,
    membership,
    newcomer,
)
from tests.p2p.village import AT, ROOT, founded, invite

BYTES = st.sampled_from([b"", b"x", encode(Declined("no", (1,))), encode(Petition(membership(B))), membership(C)])
MESSAGES = st.one_of(
    st.sampled_from([hello(), hello(node=EVE), Spliced(), Room(ROOT.peer_id, 0, True), Room(bytes(32), 0, False)]),
    st.builds(Present, st.sampled_from([B.peer_id, EVE.peer_id]), st.tuples(BYTES)),
    st.builds(Left, st.sampled_from([A.peer_id, B.peer_id])),
    st.builds(Signaled, st.sampled_from([A.peer_id, B.peer_id]), BYTES),
    st.builds(Ticket, st.just(A.peer_id), st.just(b"k" * 16), st.booleans()),
    st.builds(Found, st.just(KEY.public), st.sampled_from([(), (b"x",), (invite(),), found(inviting()).records])),
    st.builds(Denied, st.just("refused"), st.just("no"), st.sampled_from([b"", A.peer_id])),
    st.builds(Beat, st.integers(0, 3)),
)
STEPS = st.lists(st.tuples(MESSAGES, st.floats(0, 30)), max_size=12)


def state_of(machine: Any) -> dict[str, Any]:
    return {k: copy.copy(v) for k, v in vars(machine).items() if not isinstance(v, Members | Identity)}


@pytest.mark.parametrize("make", [lambda: rv.Rendezvous(A, inviting(), AT.address, AT.key, NONCE), newcomer])
@given(steps=STEPS)
def test_any_message_in_any_state_is_answered_or_leaves_it_unchanged(
    make: Any, steps: list[tuple[FromNode, float]]
) -> None:
    machine, now = make(), 0.0
    machine.start(now)
    for message, wait in steps:
        before = state_of(machine)
        ended = machine.state.value == "ended"
        try:
            effects = machine.receive(message, now)
        except PeerError:
            assert state_of(machine) == before
            effects = []
        if ended:
            assert effects == []
        if machine.state is before["state"] and machine.state.value not in ("present", "asking a member"):
            assert machine.deadline <= before["deadline"]
        now += wait
        if now >= machine.deadline:
            assert machine.tick(now)
            assert machine.deadline > now
    if machine.state.value == "ended":
        assert machine.tick(math.inf) == []


def test_out_of_turn_is_broken() -> None:
    machine = rv.Rendezvous(A, founded(A), AT.address, AT.key, NONCE)
    machine.start(0)
    for message in (Left(B.peer_id), Room(ROOT.peer_id, 0, True)):
        with pytest.raises(Broken):
            machine.receive(message, 0)


# -- addresses
