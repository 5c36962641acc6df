"""The machines on our side of the signaling node: a member's Rendezvous and a Newcomer, without any clock or socket."""

from __future__ import annotations

import math
from typing import Any

import pytest

from discod.errors import BadInvite, Refused
from discod.identity import (
    Identity,
    Members,
    found_mesh,
    make_addresses,
    make_admit,
    make_invite,
    make_membership,
    make_revocation,
    parse_record,
)
from discod.p2p import newcomer as nc
from discod.p2p import rendezvous as rv
from discod.wire.codec import PROTOCOL_VERSION, decode, encode
from discod.wire.signaling import (
    HELLO_LABEL,
    Admitted,
    Beat,
    Declined,
    Find,
    Found,
    Hello,
    Join,
    Knock,
    Left,
    Petition,
    Present,
    Publish,
    Room,
    Signal,
    Signaled,
    Ticket,
    hello_statement,
    whisper,
)
from tests.p2p.pairs import identity
from tests.p2p.village import AT, NODE, ROOT, SEED, founded, invite, link

A, B, C, EVE = identity(1), identity(2), identity(3), identity(6)
NONCE, THEIRS = b"n" * 16, b"t" * 16
KEY = Identity.from_seed(SEED)


def hello(host: str = AT.address, nonce: bytes = NONCE, node: Identity = NODE) -> Hello:
    signature = node.sign(HELLO_LABEL, hello_statement(nonce, host))
    return Hello(PROTOCOL_VERSION, node.public, THEIRS, 0, "10.0.0.9", signature)


def inviting(**fields: Any) -> Members:
    members = founded(A)
    members.add(invite(**fields))
    return members


def membership(who: Identity, slot: int = 0) -> bytes:
    return make_membership(KEY, who, ROOT.peer_id, "somebody", slot=slot, now=1)


def present(members: Members | None = None, now: float = 0) -> rv.Rendezvous:
    members = members or inviting()
    machine = rv.Rendezvous(A, members, AT.address, AT.key, NONCE)
    machine.start(now)
    machine.receive(hello(), now)
    machine.receive(Room(members.mesh_id, 0, True), now)
    return machine


def told(effects: list[Any], kind: type) -> list[Any]:
    return [e.message for e in effects if isinstance(e, rv.Tell) and isinstance(e.message, kind)]


def whispers(effects: list[Any]) -> list[Any]:
    return [decode(whisper, message.body) for message in told(effects, Signal)]


def test_member_proves_the_node_then_joins_and_publishes() -> None:
    members = inviting()
    machine = rv.Rendezvous(A, members, AT.address, AT.key, NONCE)
    assert machine.start(0) == [rv.Tell(Knock(PROTOCOL_VERSION, NONCE, AT.address))]
    (join,) = told(machine.receive(hello(), 0.5), Join)
    assert join.mesh == members.mesh_id
    assert {type(parse_record(data).body).__name__ for data in join.records} == {"Invite", "Membership", "Admit"}
    effects = machine.receive(Room(members.mesh_id, 0, True), 0.6)
    assert rv.Entered(True, "10.0.0.9") in effects
    published = [parse_record(data).body for part in told(effects, Publish) for data in part.records]
    assert {type(body).__name__ for body in published} == {"MeshInfo", "Invite"}
    assert machine.state is rv.State.PRESENT


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (hello(node=EVE), "another signaling node"),
        (hello(host="elsewhere:1"), "did not prove"),
        (hello(nonce=b"x" * 16), "did not prove"),
    ],
)
def test_other_node_key_or_a_proof_for_another_host_ends_it(bad: Hello, why: str) -> None:
    machine = rv.Rendezvous(A, founded(A), AT.address, AT.key, NONCE)
    machine.start(0)
    (ended,) = machine.receive(bad, 0)
    assert isinstance(ended, rv.Ended)
    assert ended.final
    assert why in ended.why


def test_silent_node_is_given_up_and_a_present_one_gets_beats() -> None:
    machine = rv.Rendezvous(A, founded(A), AT.address, AT.key, NONCE)
    machine.start(0)
    assert machine.tick(9.9) == []
    assert machine.tick(10) == [rv.Ended("the signaling node does not answer")]
    machine = present(now=100)
    (beat,) = told(machine.tick(machine.deadline), Beat)
    machine.receive(beat, machine.deadline - 19.5)
    assert machine.rtt_seconds == pytest.approx(0.5)


def test_node_that_falls_silent_is_given_up_after_two_beats_without_an_answer() -> None:
    machine = present(now=100)
    machine.receive(Left(C.peer_id), 119)  # whatever it says, it lives
    assert told(machine.tick(120), Beat)
    assert told(machine.tick(140), Beat)
    assert machine.tick(160) == [rv.Ended("the signaling node does not answer")]


def test_newcomer_is_admitted_gets_all_records_and_others_learn_of_it() -> None:
    machine = present()
    effects = machine.receive(Signaled(B.peer_id, encode(Petition(membership(B)))), 5)
    (learn,) = [e for e in effects if isinstance(e, rv.Learn)]
    members = Members(ROOT.public)
    for part in whispers(effects):
        for data in part.records:
            members.add(data)
    assert members.is_member(B.peer_id)
    assert [part.last for part in whispers(effects)][-1] is True
    assert set(learn.records) < set(members.records())


def test_same_petition_again_gets_the_records_again() -> None:
    members = inviting()
    machine = present(members)
    petition = Signaled(B.peer_id, encode(Petition(membership(B))))
    for data in next(e for e in machine.receive(petition, 5) if isinstance(e, rv.Learn)).records:
        members.add(data)
    again = machine.receive(petition, 6)
    assert not [e for e in again if isinstance(e, rv.Learn)]
    assert isinstance(whispers(again)[0], Admitted)


@pytest.mark.parametrize(
    ("fields", "slot", "now", "why", "free"),
    [
        ({}, 0, 20_000, "the invite has expired", ()),
        ({"uses": 1}, 1, 5, "slot 1 is not free; free: [0]", (0,)),
        ({"approve": True}, 0, 5, "an admin must approve it", ()),
    ],
)
def test_refused_newcomer_is_told_why(fields: dict[str, Any], slot: int, now: float, why: str, free: Any) -> None:
    effects = present(inviting(**fields)).receive(Signaled(B.peer_id, encode(Petition(membership(B, slot)))), now)
    assert whispers(effects) == [Declined(why, free)]


def test_revoked_invite_is_refused() -> None:
    members = inviting()
    members.add(make_revocation(ROOT, "invite", KEY.public, 3))
    effects = present(members).receive(Signaled(B.peer_id, encode(Petition(membership(B)))), 5)
    assert whispers(effects) == [Declined("the invite was revoked", ())]


def test_petition_for_somebody_else_is_refused() -> None:
    with pytest.raises(Refused, match="somebody else"):
        present().receive(Signaled(C.peer_id, encode(Petition(membership(B)))), 5)


def test_membership_of_a_peer_nobody_admitted_is_not_learned() -> None:
    """Two claims to one slot void it: a newcomer's counts only once a member has answered it."""
    machine = present()
    assert machine.receive(Present(B.peer_id, (membership(B),)), 5) == []
    assert machine.present == set()
    admit = make_admit(A, parse_record(membership(B)), 5)
    own = (membership(B), admit, make_addresses(B, ROOT.peer_id, ("10.1.2.3:7340",), seq=1, now=5))
    assert machine.receive(Present(B.peer_id, own), 6) == [rv.Learn(own), rv.Came(B.peer_id)]
    assert machine.receive(Left(B.peer_id), 7) == [rv.Gone(B.peer_id)]


def test_ticket_of_a_stranger_is_not_redeemed() -> None:
    members = inviting()
    machine = present(members)
    ticket = Ticket(B.peer_id, b"k" * 16, False)
    assert machine.receive(ticket, 5) == []
    members.add(membership(B))
    members.add(make_admit(A, parse_record(membership(B)), 5))
    assert machine.receive(ticket, 5) == [rv.OpenRelay(B.peer_id, b"k" * 16, False)]


def test_only_what_changed_is_told_again() -> None:
    members = inviting()
    machine = present(members)
    assert machine.changed(5) == []
    members.add(make_addresses(A, members.mesh_id, ("10.1.2.3:7340",), seq=1, now=5))
    assert len(told(machine.changed(5), Join)) == 1
    assert machine.changed(5) == []
    members.add(invite(uses=7))
    effects = machine.changed(6)
    assert told(effects, Join) == []


# -- the newcomer


def newcomer(now: float = 0) -> nc.Newcomer:
    machine = nc.Newcomer(B, link(), "bert", NONCE)
    machine.start(now)
    return machine


def found(members: Members) -> Found:
    kinds = ("MeshInfo", "Invite", "Revocation")
    records = [data for data in members.records() if type(parse_record(data).body).__name__ in kinds]
    return Found(KEY.public, tuple(records))


def asking(members: Members, *present_ones: Identity) -> tuple[nc.Newcomer, list[Any]]:
    machine = newcomer()
    machine.receive(hello(), 0)
    machine.receive(found(members), 0)
    machine.receive(Room(members.mesh_id, 1, True), 0)
    for who in present_ones:
        machine.receive(Present(who.peer_id, rv.own_records(members, who.public)), 0)
    return machine, machine.tick(0)


def test_newcomer_checks_the_node_before_the_invite_is_mentioned() -> None:
    machine = newcomer()
    (failed,) = machine.receive(hello(node=EVE), 0)
    assert isinstance(failed, nc.Failed)
    assert failed.error.code == "wrong-signaling-key"
    machine = newcomer()
    assert told(machine.receive(hello(), 0), Find) == [Find(KEY.public)]


def test_seed_never_leaves() -> None:
    members = inviting()
    _, effects = asking(members, A)
    everything = [*newcomer().start(0), *newcomer().receive(hello(), 0), *newcomer_join(members), *effects]
    said = b"".join(encode(e.message) for e in everything if isinstance(e, rv.Tell))
    assert SEED not in said
    assert KEY.public in said


def newcomer_join(members: Members) -> list[Any]:
    machine = newcomer()
    machine.receive(hello(), 0)
    return machine.receive(found(members), 0)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"expires": 5}, "expired"),
        ({"revoked": True}, "revoked"),
        ({"root": identity(99)}, "another mesh"),
    ],
)
def test_bad_invite_fails_by_name(change: dict[str, Any], why: str) -> None:
    root = change.get("root", ROOT)
    members = Members(root.public)
    for record in found_mesh(root, A, "oncology", "anna", 0, bytes([9]) * 32):
        members.add(record)
    members.add(make_invite(root, KEY.public, uses=1, expires=change.get("expires", 10_000)))
    if change.get("revoked"):
        members.add(make_revocation(root, "invite", KEY.public, 3))
    machine = newcomer()
    machine.receive(hello(), 10)
    (failed,) = machine.receive(found(members), 10)
    assert isinstance(failed, nc.Failed)
    assert isinstance(failed.error, BadInvite)
    assert why in failed.error.message


def test_unknown_invite_is_asked_for_again() -> None:
    machine = newcomer()
    machine.receive(hello(), 0)
    assert machine.receive(Found(KEY.public, ()), 0) == []
    assert told(machine.tick(machine.deadline), Find) == [Find(KEY.public)]
    assert "does not know this invite" in machine.waiting_for


def test_lowest_member_is_asked_first_and_the_next_one_when_it_is_silent() -> None:
    members = inviting()
    for who in (C,):
        members.add(membership(who, 1))
        members.add(make_admit(A, parse_record(membership(who, 1)), 2))
    machine, effects = asking(members, A, C)
    first, second = sorted((A.peer_id, C.peer_id))
    assert [s.to for s in told(effects, Signal)] == [first]
    assert [s.to for s in told(machine.tick(machine.deadline), Signal)] == [second]
    assert [s.to for s in told(machine.tick(machine.deadline), Signal)] == [first]


def test_newcomer_does_not_ask_other_newcomers() -> None:
    members = inviting()
    machine, _ = asking(members)
    machine.receive(Present(C.peer_id, (invite(), membership(C))), 0)
    assert told(machine.tick(machine.deadline), Signal) == []
    assert "no member answered" in machine.waiting_for


def test_taken_slot_is_replaced_by_a_free_one() -> None:
    machine, _ = asking(inviting(), A)
    effects = machine.receive(Signaled(A.peer_id, encode(Declined("slot 0 is not free", (1,)))), 1)
    (petition,) = whispers(effects)
    body: Any = parse_record(petition.membership).body
    assert body.slot == 1


def test_declined_by_all_fails_with_their_reason() -> None:
    machine, _ = asking(inviting(), A)
    (failed,) = machine.receive(Signaled(A.peer_id, encode(Declined("the invite is used up", ()))), 1)
    assert isinstance(failed, nc.Failed)
    assert "used up" in failed.error.message


def test_admitted_newcomer_checks_the_records_itself() -> None:
    members = inviting()
    machine, effects = asking(members, A)
    (petition,) = whispers(effects)
    answer = present(members).receive(Signaled(B.peer_id, encode(petition)), 5)
    done: list[Any] = []
    for part in told(answer, Signal):
        done += machine.receive(Signaled(A.peer_id, part.body), 5)
    (joined,) = done
    assert isinstance(joined, nc.Joined)
    assert joined.members.is_member(B.peer_id)
    assert machine.deadline == math.inf


def test_records_that_do_not_make_us_a_member_are_no_admission() -> None:
    members = inviting()
    machine, _ = asking(members, A)
    (failed,) = machine.receive(Signaled(A.peer_id, encode(Admitted(tuple(members.records()), True))), 5)
    assert isinstance(failed, nc.Failed)
    assert "no membership" in failed.error.message


def test_answer_of_somebody_else_is_refused() -> None:
    machine, _ = asking(inviting(), A)
    with pytest.raises(Refused, match="not asked"):
        machine.receive(Signaled(EVE.peer_id, encode(Declined("no", ()))), 1)


# -- laws, for both machines
