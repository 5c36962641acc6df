"""The federated buffer's rules, points 1 to 6 of protocol.md 7, and what the reference gets wrong."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discod.errors import Refused
from discod.train.task import RoundSpec
from discod.wire.federated import FederatedSpec, HostedTask, hosted_task
from signaling.buffer import Buffer, Contribution, Counted, Effect, Kept, Make, NotTaken, State

A, B, C, D = (bytes([n]) * 32 for n in (1, 2, 3, 4))


def a_buffer(rounds: int = 40, min_peers: int = 3, **rule: Any) -> Buffer:
    shape = type(HostedTask().round)
    return Buffer(HostedTask("federated", shape(rounds, min_peers), FederatedSpec(**rule)))


def together(**rule: Any) -> Buffer:
    return a_buffer(mode="synchronous", **rule)


def push(peer: bytes, seq: int, base: int = 0, *, since: int = 0, weight: int = 1, time: float = 0) -> Contribution:
    return Contribution(peer, seq, base, since, weight, bytes([seq]) * 32, time)


def made(effects: list[Effect]) -> list[Make]:
    return [effect for effect in effects if isinstance(effect, Make)]


def refusal(buffer: Buffer, contribution: Contribution) -> NotTaken:
    before = copy.deepcopy(vars(buffer) | {"refused": None})
    with pytest.raises(NotTaken) as raised:
        buffer.receive(contribution, contribution.time)
    assert vars(buffer) | {"refused": None} == before, "a refusal changes nothing"
    return raised.value


def test_pushing_does_not_change_the_version_and_a_full_buffer_raises_it_by_one() -> None:
    buffer = a_buffer(capacity=3)
    assert buffer.receive(push(A, 1), 0) == [Kept(push(A, 1))]
    buffer.receive(push(B, 1), 0)
    assert buffer.version == 0
    (make,) = made(buffer.receive(push(C, 1), 0))
    assert (make.version, [each.peer for each in make.parts]) == (1, [A, B, C])
    assert (buffer.version, buffer.slots) == (1, {})


def test_one_slot_per_peer_and_a_second_push_replaces_the_first() -> None:
    buffer = a_buffer(capacity=2)
    buffer.receive(push(A, 1), 0)
    assert made(buffer.receive(push(A, 2, weight=7), 0)) == []
    (make,) = made(buffer.receive(push(B, 1), 0))
    assert [(each.peer, each.seq, each.weight) for each in make.parts] == [(A, 2, 7), (B, 1, 1)]


@pytest.mark.parametrize(("cutoff", "behind", "taken"), [(0, 0, True), (0, 1, False), (1, 1, True), (1, 2, False)])
def test_contribution_is_taken_up_to_the_cutoff_and_stale_above(cutoff: int, behind: int, taken: bool) -> None:
    buffer = a_buffer(capacity=1, cutoff=cutoff)
    for number in range(behind):
        buffer.receive(push(B, number + 1, number), 0)
    if taken:
        assert made(buffer.receive(push(A, 1), 0))[0].version == behind + 1
    else:
        assert refusal(buffer, push(A, 1)).code == "stale"


def test_stale_peer_that_fetches_the_version_is_taken_with_it() -> None:
    """The reference answers a stale push with a version that it refuses again."""
    buffer = a_buffer(capacity=1)
    buffer.receive(push(B, 1), 0)
    buffer.receive(push(B, 2, 1), 0)
    assert refusal(buffer, push(A, 1)).code == "stale"
    assert made(buffer.receive(push(A, 2, buffer.version), 0))[0].version == 3


def test_version_of_the_future_is_refused() -> None:
    """The reference takes it."""
    assert refusal(a_buffer(cutoff=5), push(A, 1, 1)).code == "future"


def test_nobody_waits_for_anybody_and_capacity_does_not_depend_on_who_is_there() -> None:
    buffer = a_buffer(capacity=2)
    for peer in (A, B, C, D):
        buffer.enter(peer)
    buffer.receive(push(A, 1), 0)
    assert made(buffer.receive(push(C, 1), 0))[0].version == 1
    assert buffer.lost(B, 1) == buffer.lost(D, 1) == []


def test_two_cycles_make_two_versions() -> None:
    buffer = a_buffer(capacity=3)
    for version in range(2):
        for peer in (A, B, C):
            buffer.receive(push(peer, version + 1, version), 0)
    assert buffer.version == 2


def test_what_is_in_a_version_is_never_counted_again() -> None:
    buffer = a_buffer(capacity=2, cutoff=2)
    buffer.receive(push(A, 1), 0)
    buffer.receive(push(B, 1), 0)  # version 1; A goes on from version 0 and has learned more since
    refused = refusal(buffer, push(A, 2))
    assert (refused.code, refused.counted) == ("counted", 1)
    assert refusal(buffer, push(B, 2, 1, since=1)).code == "counted"  # B has version 1, and starts from that
    buffer.receive(push(A, 2, since=1), 0)
    buffer.receive(push(A, 3, since=1), 0)  # replaces it: also all since push 1
    buffer.receive(push(B, 2, 1), 0)
    assert buffer.counted == {A: Counted(3, 2, 0), B: Counted(2, 2, 1)}
    assert refusal(buffer, push(A, 4, since=1)).counted == 3


def test_peer_that_took_a_newer_base_starts_from_it_whatever_was_counted_meanwhile() -> None:
    buffer = a_buffer(capacity=2, cutoff=2)
    for seq, peer in enumerate((B, C), 1):
        buffer.receive(push(peer, seq), 0)
    buffer.receive(push(A, 1), 0)  # A pulls version 1 after this and trains on from it
    buffer.receive(push(B, 3, 1), 0)  # version 2 holds A's push
    assert refusal(buffer, push(A, 2, 1, since=1)).code == "counted"
    assert buffer.receive(push(A, 2, 1), 0)


def test_same_push_twice_counts_once_before_and_after_it_is_in_a_version() -> None:
    buffer = a_buffer(capacity=2)
    buffer.receive(push(A, 1), 0)
    assert buffer.receive(push(A, 1), 5) == [Kept(push(A, 1), again=True)]
    buffer.receive(push(B, 1), 0)
    assert buffer.receive(push(A, 1), 5) == [Kept(push(A, 1), again=True)]
    assert (buffer.version, buffer.slots) == (1, {})
    assert refusal(buffer, push(A, 0, 1)).code == "replayed"


def test_another_vector_under_the_same_number_is_refused() -> None:
    buffer = a_buffer()
    buffer.receive(push(A, 1), 0)
    other = Contribution(A, 1, 0, 0, 1, b"x" * 32, 0)
    assert refusal(buffer, other).code == "equivocation"


def test_update_that_is_behind_weighs_less_by_the_root() -> None:
    buffer = a_buffer(capacity=2, cutoff=3)
    for version in range(3):
        for peer in (B, C):
            buffer.receive(push(peer, version + 1, version), 0)
    buffer.receive(push(A, 1, 0), 0)
    (make,) = made(buffer.receive(push(B, 4, 2, since=3), 0))
    assert make.factors == pytest.approx((1 / math.sqrt(4), 1 / math.sqrt(2)))


def test_oldest_waits_no_longer_than_max_age() -> None:
    buffer = a_buffer(capacity=3, max_age_seconds=10.0)
    assert buffer.deadline == math.inf
    buffer.receive(push(A, 1, time=100), 100)
    buffer.receive(push(B, 1, time=104), 104)
    buffer.receive(push(A, 2, time=108), 108)  # replacing it does not make it younger
    assert buffer.deadline == 110
    assert buffer.tick(109.9) == []
    assert [each.seq for each in made(buffer.tick(110))[0].parts] == [2, 1]
    assert buffer.deadline == math.inf


def test_synchronous_version_waits_for_everybody_who_is_there() -> None:
    buffer = together(quorum=2)
    for peer in (A, B, C):
        buffer.enter(peer)
    assert made(buffer.receive(push(A, 1), 0) + buffer.receive(push(B, 1), 0)) == []
    assert len(made(buffer.receive(push(C, 1), 0))[0].parts) == 3


def test_leaver_does_not_stall_the_round() -> None:
    """The reference waits for ever: it looks whether the round is full only when somebody pushes."""
    buffer = together(quorum=2)
    for peer in (A, B, C):
        buffer.enter(peer)
    buffer.receive(push(A, 1), 0)
    buffer.receive(push(B, 1), 0)
    (make,) = made(buffer.lost(C, 1))
    assert [each.peer for each in make.parts] == [A, B]


def test_departed_peer_is_not_counted_but_what_it_pushed_is_kept() -> None:
    """The reference goes on counting it as a participant."""
    buffer = together(quorum=2)
    for peer in (A, B, C):
        buffer.enter(peer)
    buffer.receive(push(C, 1), 0)
    assert buffer.lost(C, 0) == []  # acknowledged; one is no quorum
    buffer.receive(push(A, 1), 0)
    (make,) = made(buffer.receive(push(B, 1), 0))
    assert [each.peer for each in make.parts] == [A, B, C]
    assert made(buffer.receive(push(A, 2, 1), 1) + buffer.receive(push(B, 2, 1), 1))[0].version == 2


def test_silent_peer_is_waited_for_until_the_deadline_and_a_quorum() -> None:
    buffer = together(quorum=2, deadline_seconds=30.0)
    for peer in (A, B, C):
        buffer.enter(peer)
    buffer.receive(push(A, 1, time=100), 100)
    assert buffer.deadline == math.inf  # alone it makes no version, however late it is
    assert buffer.tick(1000) == []
    assert len(made(buffer.receive(push(B, 1, time=1000), 1000))[0].parts) == 2
    buffer.receive(push(A, 2, 1, time=1001), 1001)
    buffer.receive(push(B, 2, 1, time=1010), 1010)
    assert buffer.deadline == 1031
    assert made(buffer.tick(1030)) == []
    assert made(buffer.tick(1031))[0].version == 2


def test_synchronous_mode_takes_no_old_base_whatever_the_cutoff() -> None:
    buffer = together(quorum=1, cutoff=9)
    buffer.receive(push(A, 1), 0)
    assert refusal(buffer, push(B, 1)).code == "stale"


def test_capacity_and_quorum_are_min_peers_unless_told() -> None:
    assert (a_buffer(min_peers=4).needed, a_buffer(min_peers=4, capacity=2).needed) == (4, 2)
    assert (together(min_peers=4).needed, together(min_peers=4, quorum=5).needed) == (4, 5)


def test_last_round_of_the_task_is_the_last_version() -> None:
    buffer = a_buffer(rounds=2, capacity=1)
    buffer.receive(push(A, 1), 0)
    buffer.receive(push(A, 2, 1), 0)
    assert buffer.state is State.FINISHED
    assert refusal(buffer, push(A, 3, 2)).code == "finished"
    assert buffer.refused == {"finished": 1}


def test_buffer_goes_on_from_what_was_on_disk() -> None:
    buffer = a_buffer(capacity=2, cutoff=1)
    for peer, seq in ((A, 1), (B, 1), (A, 3)):
        buffer.receive(push(peer, seq, buffer.version), 0)
    again = Buffer(buffer.task, buffer.version, buffer.slots.values(), buffer.last, buffer.counted)
    assert (again.version, again.slots) == (1, {A: push(A, 3, 1)})
    assert refusal(again, push(A, 2, 1)).code == "replayed"
    assert made(again.receive(push(C, 1, 1), 0))[0].version == 2


def test_node_reads_of_a_task_what_the_task_says() -> None:
    task = hosted_task(b"\x81\xa4name\xa1x")
    assert (task.round.rounds, task.round.min_peers) == (RoundSpec().rounds, RoundSpec().min_peers)
    for bad in (b"", b"\xc1", b"\x81\xa9federated\x81\xa8capacity\xff", b"\xa1x"):
        with pytest.raises(Refused):
            hosted_task(bad)


moves = st.lists(
    st.tuples(
        st.sampled_from(("push", "push", "push", "repeat", "enter", "lost", "tick")),
        st.sampled_from((A, B, C)),
        st.integers(0, 3),
    ),
    max_size=60,
)


@given(moves, st.booleans(), st.integers(1, 3), st.integers(0, 2))
def test_whatever_happens_versions_grow_by_one_and_every_step_counts_at_most_once(
    steps: list[tuple[str, bytes, int]], synchronous: bool, needed: int, cutoff: int
) -> None:
    """Peers that train one step before each push, and pull when they feel like it; steps are numbered."""
    rule: dict[str, Any] = {"mode": "synchronous", "quorum": needed, "deadline_seconds": 5.0}
    buffer = a_buffer(**(rule if synchronous else {"capacity": needed, "cutoff": cutoff, "max_age_seconds": 5.0}))
    trained_at: dict[tuple[bytes, int], set[int]] = {}
    trained = {peer: set[int]() for peer in (A, B, C)}  # steps since the peer's base, what local holds of its own
    pushed: dict[tuple[bytes, int], set[int]] = {}
    codes = set[str]()
    bases, seqs, counted, number = dict.fromkeys((A, B, C), 0), dict.fromkeys((A, B, C), 0), list[int](), 0
    for now, (what, peer, choice) in enumerate(steps):
        version, effects = buffer.version, list[Effect]()
        if what == "push":
            number, seqs[peer] = number + 1, seqs[peer] + 1
            trained[peer].add(number)
            since = buffer.since(peer, bases[peer])
            mine = trained[peer] - (trained_at[peer, since] if since else set())
            trained_at[peer, seqs[peer]] = set(trained[peer])
            contribution = push(peer, seqs[peer], bases[peer], since=since, time=now)
            try:
                effects = buffer.receive(contribution, now)
                pushed[peer, seqs[peer]] = mine
            except NotTaken as error:
                codes.add(error.code)
            if choice:
                if bases[peer] != buffer.version:
                    trained[peer] = set()
                bases[peer] = buffer.version
        elif what == "repeat" and buffer.last.get(peer):
            held = buffer.slots.get(peer) or push(peer, buffer.last[peer])
            effects = buffer.receive(held, now)
        elif what == "enter":
            buffer.enter(peer)
        elif what == "lost":
            effects = buffer.lost(peer, now)
        else:
            effects = buffer.tick(now)
        assert buffer.version - version == len(made(effects)) <= 1
        for make in made(effects):
            assert len(make.parts) >= 1
            for part in make.parts:
                counted += sorted(pushed[part.peer, part.seq])
    assert len(counted) == len(set(counted))
    assert codes <= {"stale"}
