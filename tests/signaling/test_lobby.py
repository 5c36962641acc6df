from __future__ import annotations

import copy
import math
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discod.errors import Broken, PeerError, Refused
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
    verify,
)
from discod.wire.codec import PROTOCOL_VERSION
from discod.wire.signaling import (
    HELLO_LABEL,
    JOIN_LABEL,
    Beat,
    Denied,
    Find,
    Found,
    Hello,
    Join,
    Knock,
    Left,
    Present,
    Publish,
    Redeem,
    Relay,
    Room,
    Signal,
    Signaled,
    Spliced,
    Ticket,
    ToNode,
    hello_statement,
    join_statement,
)
from signaling.limits import Limits
from signaling.lobby import Close, Effect, Lobby, Splice, Tell


def identity(n: int) -> Identity:
    return Identity.from_seed(bytes([n]) * 32)


NODE, ROOT, A, B, EVE, KEY = map(identity, (1, 2, 3, 4, 5, 6))
HOST = "signal.example.org:8765"


def mesh(root: Identity = ROOT) -> Members:
    members = Members(root.public)
    for record in found_mesh(root, A, "oncology", "anna", 0, bytes(32)):
        members.add(record)
    members.add(make_invite(root, KEY.public, uses=1, expires=1000))
    membership = make_membership(KEY, B, members.mesh_id, "bert", slot=0, now=1)
    members.add(membership)
    members.add(make_admit(A, parse_record(membership), 2))
    return members


MESH = mesh()


def lobby(**options: Any) -> Lobby:
    numbers = count(1)
    return Lobby(NODE, lambda: next(numbers).to_bytes(16, "big"), **options)


def records(kind: str) -> list[bytes]:
    return [data for data in MESH.records() if type(parse_record(data).body).__name__ == kind]


def nonce_of(effects: list[Effect]) -> bytes:
    return next(e.message.nonce for e in effects if isinstance(e, Tell) and isinstance(e.message, Hello))


def join(who: Identity, nonce: bytes, shown: tuple[bytes, ...] | None = None, mesh_id: bytes = MESH.mesh_id) -> Join:
    own = tuple(records("Invite") + records("Membership")) if shown is None else shown
    signature = who.sign(JOIN_LABEL, join_statement(nonce, HOST, mesh_id, 7))
    return Join(mesh_id, who.public, 7, own, signature)


def knocked(room: Lobby, guest: int, now: float = 0) -> bytes:
    room.connect(guest, "10.0.0.1", now)
    return nonce_of(room.receive(guest, Knock(PROTOCOL_VERSION, b"n" * 16, HOST), now))


def both(**options: Any) -> Lobby:
    room = lobby(**options)
    for guest, who in ((1, A), (2, B)):
        room.receive(guest, join(who, knocked(room, guest)), 0)
    return room


def test_hello_proves_the_node_for_this_nonce_and_host() -> None:
    room = lobby()
    room.connect(1, "10.0.0.1", 0)
    (tell,) = room.receive(1, Knock(PROTOCOL_VERSION, b"n" * 16, HOST), 5.5)
    assert isinstance(tell, Tell)
    hello = tell.message
    assert isinstance(hello, Hello)
    assert (hello.key, hello.time, hello.seen) == (NODE.public, 5, "10.0.0.1")
    assert verify(NODE.public, HELLO_LABEL, hello_statement(b"n" * 16, HOST), hello.signature)
    assert not verify(NODE.public, HELLO_LABEL, hello_statement(b"n" * 16, "other:1"), hello.signature)


def test_peers_of_a_mesh_see_each_other_come_and_go() -> None:
    room = lobby()
    first = room.receive(1, join(A, knocked(room, 1)), 0)
    assert first == [Tell(1, Room(MESH.mesh_id, 0, True))]
    own = tuple(records("Invite") + records("Membership"))
    assert room.receive(2, join(B, knocked(room, 2)), 0) == [
        Tell(2, Room(MESH.mesh_id, 1, True)),
        Tell(2, Present(A.peer_id, own)),
        Tell(1, Present(B.peer_id, own)),
    ]
    assert room.lost(2) == [Tell(1, Left(B.peer_id))]
    assert room.lost(2) == []


def test_news_about_oneself_reach_the_others() -> None:
    room = lobby()
    nonce = knocked(room, 1)
    room.receive(1, join(A, nonce), 0)
    room.receive(2, join(B, knocked(room, 2)), 0)
    more = (*records("Invite"), *records("Membership"), make_addresses(A, MESH.mesh_id, ("10.0.0.1:1",), seq=1, now=1))
    assert room.receive(1, join(A, nonce, more), 1) == [Tell(2, Present(A.peer_id, more))]


def test_same_peer_on_a_new_connection_replaces_the_old_one() -> None:
    room = both()
    effects = room.receive(3, join(A, knocked(room, 3)), 1)
    assert [e.denied.code for e in effects if isinstance(e, Close)] == ["replaced"]
    assert room.lost(1) == []
    assert room.counts() == {"connections": 2, "rooms": 1, "peers": 2}


@pytest.mark.parametrize(
    ("message", "error", "why"),
    [
        (lambda n: join(EVE, n), Refused, "no membership"),
        (lambda n: join(A, b"x" * 16), Broken, "bad signature"),
        (lambda n: join(A, n, ()), Refused, "no membership"),
        (lambda n: join(A, n, tuple(records("Membership"))), Refused, "no membership"),
        (lambda n: join(A, n, mesh_id=b"m" * 32), Refused, "no membership"),
        (lambda n: join(A, n, (b"junk",)), Broken, "not a message"),
        (lambda n: Signal(B.peer_id, b""), Refused, "join a mesh first"),
        (lambda n: Publish(()), Refused, "join a mesh first"),
        (lambda n: Knock(PROTOCOL_VERSION, b"n" * 16, HOST), Broken, "out of turn"),
        (lambda n: Redeem(b"n" * 16), Broken, "out of turn"),
    ],
)
def test_who_has_not_shown_a_membership_gets_nowhere(message: Any, error: type[PeerError], why: str) -> None:
    room = lobby()
    nonce = knocked(room, 1)
    with pytest.raises(error, match=why):
        room.receive(1, message(nonce), 0)
    assert room.counts()["peers"] == 0


def test_nothing_comes_before_knock() -> None:
    room = lobby()
    room.connect(1, "10.0.0.1", 0)
    for message in (Beat(1), Find(bytes(32)), join(A, b"n" * 16)):
        with pytest.raises(Broken):
            room.receive(1, message, 0)


def test_published_invite_is_found_by_its_key_alone_and_others_are_not_shown() -> None:
    room = both()
    other = make_invite(ROOT, EVE.public, uses=1, expires=9)
    room.receive(1, Publish((*records("MeshInfo"), *records("Invite"), other)), 0)
    knocked(room, 9)
    (tell,) = room.receive(9, Find(KEY.public), 0)
    assert isinstance(tell, Tell)
    assert isinstance(tell.message, Found)
    assert {getattr(parse_record(data).body, "key", None) for data in tell.message.records} == {None, KEY.public}
    assert room.receive(9, Find(b"x" * 32), 0) == [Tell(9, Found(b"x" * 32, ()))]
    room.receive(2, Publish((make_revocation(ROOT, "invite", KEY.public, 5),)), 0)
    (tell,) = room.receive(9, Find(KEY.public), 0)
    assert isinstance(tell, Tell)
    assert len(tell.message.records) == 3  # type: ignore[union-attr]


def test_only_invites_of_the_own_mesh_are_published() -> None:
    room = both()
    for record in (*records("Membership"), *[r for r in mesh(EVE).records() if parse_record(r).mesh != MESH.mesh_id]):
        with pytest.raises(Refused, match="only the invites"):
            room.receive(1, Publish((record,)), 0)


def test_signal_goes_to_one_peer_of_the_same_mesh_and_names_its_sender() -> None:
    room = both()
    assert room.receive(1, Signal(B.peer_id, b"hi"), 0) == [Tell(2, Signaled(A.peer_id, b"hi"))]
    (tell,) = room.receive(1, Signal(EVE.peer_id, b"hi"), 0)
    assert isinstance(tell, Tell)
    assert isinstance(tell.message, Denied)
    assert tell.message.code == "not-here"


def tickets(room: Lobby, now: float = 0) -> tuple[bytes, bytes]:
    """Tokens of B's and A's seats, after A asked."""
    effects = room.receive(1, Relay(B.peer_id), now)
    found = {e.guest: e.message for e in effects if isinstance(e, Tell) and isinstance(e.message, Ticket)}
    assert (found[1].dial, found[2].dial) == (True, False)
    return found[2].token, found[1].token


def test_relay_splices_two_who_redeem_their_tickets_and_counts_their_bytes() -> None:
    room = both(settable=Limits(relay_bytes_per_minute=1000))
    theirs, mine = tickets(room)
    for guest in (11, 12):
        room.connect(guest, "10.0.0.1", 0)
    assert room.receive(11, Redeem(mine), 1) == []
    assert room.receive(12, Redeem(theirs), 1) == [Tell(11, Spliced()), Tell(12, Spliced()), Splice(11, 12)]
    assert room.carry(11, 900, 2) is None
    assert room.carry(12, 900, 2) is None  # each peer has its own minute
    refusal = room.carry(11, 200, 2)
    assert refusal is not None
    assert refusal.code == "relay-quota"
    assert room.carry(11, 900, 70) is None


def test_ticket_is_for_one_use_and_ten_seconds() -> None:
    room = both()
    _, mine = tickets(room)
    for guest in (11, 12, 13):
        room.connect(guest, "10.0.0.1", 0)
    room.receive(11, Redeem(mine), 1)
    for guest, token, now in ((12, mine, 1), (13, tickets(room)[1], 11)):
        (close,) = room.receive(guest, Redeem(token), now)
        assert isinstance(close, Close)
        assert close.denied.code == "bad-ticket"


def test_relay_that_is_off_or_a_peer_that_is_away_is_named() -> None:
    for room, to, code in ((both(relay=False), B, "no-relay"), (both(), EVE, "not-here")):
        (tell,) = room.receive(1, Relay(to.peer_id), 0)
        assert isinstance(tell, Tell)
        assert isinstance(tell.message, Denied)
        assert (tell.message.code, tell.message.about) == (code, to.peer_id)


def test_peer_over_its_quota_gets_no_new_relay() -> None:
    room = both(settable=Limits(relay_bytes_per_minute=10))
    theirs, mine = tickets(room)
    for guest, token in ((11, mine), (12, theirs)):
        room.connect(guest, "10.0.0.1", 0)
        room.receive(guest, Redeem(token), 0)
    room.carry(11, 10, 0)
    (tell,) = room.receive(2, Relay(A.peer_id), 1)
    assert isinstance(tell, Tell)
    assert isinstance(tell.message, Denied)
    assert tell.message.code == "relay-quota"


def test_too_many_connections_and_joins_of_one_address_are_refused() -> None:
    room = lobby()
    for guest in range(room.limits.connections_per_address):
        assert room.connect(guest, "10.0.0.1", 0) == []
    (close,) = room.connect(999, "10.0.0.1", 0)
    assert isinstance(close, Close)
    assert close.denied.code == "too-many-connections"
    assert room.connect(1000, "10.0.0.2", 0) == []
    room = lobby()
    nonce = knocked(room, 1)
    for _ in range(room.limits.joins_per_minute):
        room.receive(1, join(A, nonce), 0)
    (tell,) = room.receive(1, join(A, nonce), 0)
    assert isinstance(tell, Tell)
    assert isinstance(tell.message, Denied)
    assert tell.message.code == "too-many-joins"


def test_silent_guests_are_closed_and_the_others_told() -> None:
    room = both()
    room.connect(3, "10.0.0.1", 50)
    assert room.deadline == 60
    room.receive(1, Beat(1), 59)
    assert room.tick(59.9) == []
    effects = room.tick(60)
    assert Tell(1, Left(B.peer_id)) in effects
    assert {e.guest for e in effects if isinstance(e, Close)} == {2, 3}
    assert lobby().deadline == math.inf


# -- the laws of the machine contract

ROOMS = [join(A, n.to_bytes(16, "big")) for n in range(1, 4)] + [join(B, n.to_bytes(16, "big")) for n in range(1, 4)]
MESSAGES: st.SearchStrategy[ToNode] = st.one_of(
    st.builds(Knock, st.sampled_from([PROTOCOL_VERSION, 99]), st.just(b"n" * 16), st.just(HOST)),
    st.sampled_from(ROOMS),
    st.sampled_from([join(EVE, b"n" * 16), Find(KEY.public), Beat(1), Publish(tuple(records("Invite")))]),
    st.builds(Publish, st.just((b"junk",))),
    st.builds(Signal, st.sampled_from([A.peer_id, B.peer_id, EVE.peer_id]), st.just(b"x")),
    st.builds(Relay, st.sampled_from([A.peer_id, B.peer_id])),
    st.builds(Redeem, st.integers(0, 9).map(lambda n: n.to_bytes(16, "big"))),
)
STEPS = st.lists(
    st.tuples(st.integers(1, 4), st.one_of(MESSAGES, st.just("connect"), st.just("lost")), st.floats(0, 20)),
    max_size=25,
)


@given(steps=STEPS)
def test_any_message_is_answered_or_leaves_the_lobby_unchanged(steps: list[tuple[int, Any, float]]) -> None:
    room, now, here, number = lobby(), 0.0, dict[int, int](), 0
    for who, message, wait in steps:
        effects: list[Effect] = []
        if message == "connect" and who not in here:
            number += 1
            here[who] = number
            effects = room.connect(number, "10.0.0.1", now)
        elif message == "lost" and who in here:
            effects = room.lost(here.pop(who))
        elif who in here and not isinstance(message, str):
            before = copy.deepcopy(
                {k: v for k, v in vars(room).items() if k.startswith(("_guests", "_from", "_rooms", "_invites"))}
                | {k: vars(room._seats)[k] for k in ("reserved", "waiting", "taken", "_held")}
            )
            try:
                effects = room.receive(here[who], message, now)
            except PeerError:
                assert before == {k: (vars(room) | vars(room._seats))[k] for k in before}
        now += wait
        effects += room.tick(now)
        closed = {e.guest for e in effects if isinstance(e, Close)}
        here = {each: guest for each, guest in here.items() if guest not in closed}
        for effect in effects:
            if isinstance(effect, Tell):
                assert effect.guest in here.values(), "nothing is told to who is gone"
        assert room.counts()["connections"] == len(here)
        assert room.deadline > now
