"""Old messages, and those of other rounds, tasks and bases, change nothing; a certificate proves one thing alone."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
import pytest

from discod.errors import PeerError
from discod.p2p import effects as fx
from discod.p2p.certificate import era_of
from discod.p2p.election import GRACE_SECONDS
from discod.p2p.rules import Rules
from discod.wire.codec import MAX_CONTROL_BYTES, digest, encode
from discod.wire.rounds import (
    NO_RID,
    Advert,
    Certificate,
    Consent,
    Done,
    Have,
    Head,
    Leave,
    Links,
    Message,
    Receipt,
    Signed,
    State,
    Sum,
    head_hash,
    parse_body,
    parse_envelope,
)
from tests.p2p.puppets import BASE, ERA, Puppets
from tests.p2p.table import WORDS, Table, machine_of, picture, refused, sign
from tests.p2p.world import SCOPE, peer_id

ONE = digest("test/one")


def entered() -> Puppets:
    p = Puppets(4, rank=1)
    p.enter()
    return p


def certified(rounds: int) -> Table:
    table = Table(4, lambda k: 0)
    table.sit()
    assert table.run(lambda: all(seat.head.round >= rounds for seat in table.seats.values()))
    return table


def test_nothing_of_an_old_round_changes_a_new_one() -> None:
    """All that anybody said in the first two rounds, again, to everybody in the third; a late Done is only counted."""
    table = certified(2)
    old = [signed for signed in dict.fromkeys(table.said) if about(signed) < 2]
    assert table.run(lambda: all(s.machine.attempt is not None and s.attempt.spent for s in table.seats.values()))
    kinds = set()
    for signed in old:
        for seat in table.seats.values():
            before, effects = picture(seat.machine, without=("_early", "votes")), list[fx.Effect]()
            try:
                effects = seat.machine.receive(signed, table.now)
            except PeerError:
                kinds.add("refused")
            assert effects == []
            assert picture(seat.machine, without=("_early", "votes")) == before
        kinds.add(parse_envelope(signed).kind)
    assert kinds >= {"refused", "advert", "roster", "have", "manifest", "receipt", "propose", "consent", "sum", "done"}


def about(signed: Signed) -> int:
    """The round of the base that a message of `certified(2)` speaks of."""
    body = parse_body(parse_envelope(signed))
    if isinstance(body, Advert | Links):
        return body.round
    return 0 if parse_envelope(signed).rid in first_rounds() else 2


@cache
def first_rounds() -> frozenset[bytes]:
    opened = [e for seat in certified(2).seats.values() for e in seat.effects if isinstance(e, fx.Open)]
    return frozenset(e.rid for e in opened[:2])


@pytest.mark.parametrize("body", [Have(b""), Consent(ONE), Done(ONE), Sum(ONE, 0, ONE), Leave("bye"), Receipt(0, ())])
def test_a_message_of_another_round_id_does_not_touch_the_attempt(body: Message) -> None:
    p = entered()
    before = picture(p.attempt)
    for rid in (ONE, NO_RID, ERA):
        assert p.say(p.leader, body, 0, rid) == []
    assert picture(p.attempt) == before


def test_messages_of_unknown_rounds_take_bounded_memory() -> None:
    p = entered()
    for n in range(1200):
        p.say(p.leader, Leave(f"{n:01000}"), 0, digest("test/rid", n.to_bytes(2, "little")))
    held = p.machine._early._held[p.leader]
    assert sum(len(signed.envelope) for _, signed in held) <= MAX_CONTROL_BYTES
    assert len(held) > 500


def test_a_message_of_another_task_is_refused() -> None:
    p = entered()
    for body in (Consent(ONE), Leave("bye")):
        assert refused(p.machine, sign(p.leader, body, p.rid, 0, ONE), p.now) == "another task"


def test_an_advert_under_another_era_or_sequence_number_is_refused() -> None:
    p = Puppets()
    liar = p.others[0]
    body = Advert(500, bytes(16), 0, BASE, p.machine.keyring.members_digest(), ())
    for rid, slot in ((NO_RID, 500), (era_of(SCOPE, 1, BASE), 500), (era_of(ONE, 0, BASE), 500), (ERA, 501)):
        assert refused(p.machine, sign(liar, body, rid, slot), p.now) == "an advert that does not fit its era"


def test_who_adverts_for_another_base_is_in_no_roster_on_mine() -> None:
    p = Puppets(4)
    liar = p.others[0]
    p.ready(p.others[1:])
    body = Advert(500, bytes(16), 3, ONE, p.machine.keyring.members_digest(), ())
    p.say(liar, body, 500, era_of(SCOPE, 3, ONE))
    p.wait(GRACE_SECONDS)
    assert p.attempt.terms.roster == tuple(sorted({*p.everybody} - {liar}))


def test_an_older_advert_does_not_replace_a_newer_one() -> None:
    p = Puppets(4)
    old, new = p.advert(p.others[0], 1), p.advert(p.others[0], 2)
    p.hear(new)
    before = picture(p.machine)
    assert p.hear(old) == []
    assert picture(p.machine) == before


def test_links_from_before_the_advert_of_an_attempt_do_not_end_it() -> None:
    """Found by the law of delivery: the Roster comes by a faster way than the leader's own Links, sent at its start."""
    p = Puppets(3, rank=1)
    del p.machine.calling.election.links[p.leader]
    p.seq += 1
    late = Links(p.seq, (), 0, BASE, False)
    p.enter()
    p.say(p.leader, late, late.seq, NO_RID)
    assert len(p.attempt.alive()) == 3
    p.links(p.leader, training=False)
    assert p.machine.attempt is None


def learns(certificate: Certificate, head: Head, scope: bytes = SCOPE, majority: bool = False) -> str:
    """A fresh machine hears of a certificate: why it is refused; empty when it is believed."""
    teller, me, *rest = [peer_id(n) for n in range(4)]
    machine = machine_of(me, (teller, me, *rest), Rules(scope, WORDS, 3, majority))
    state = sign(teller, State(1, (certificate,), encode(head)), NO_RID, 1, scope)
    try:
        machine.receive(state, 0.0)
    except PeerError:
        return refused(machine, state, 0.0)
    assert certificate.state in machine.chain.headers
    return ""


@cache
def true() -> tuple[Certificate, Head]:
    seat = next(iter(certified(1).seats.values()))
    (certificate,) = seat.machine.chain.headers.values()
    return certificate, seat.head


def test_a_certificate_holds_in_its_own_task_alone() -> None:
    certificate, head = true()
    assert learns(certificate, head) == ""
    there = msgspec.structs.replace(head, scope=ONE)
    assert learns(certificate, there, scope=ONE) == "roster with an advert of another era"


FORGERIES: dict[str, Any] = {
    "a signer too few": lambda c, say: {"dones": c.dones[:2]},
    "one signer thrice": lambda c, say: {"dones": c.dones[:1] * 3},
    "another state": lambda c, say: {"state": ONE},
    "another parent": lambda c, say: {"parent": ONE},
    "another round": lambda c, say: {"round": 2},
    "round 0": lambda c, say: {"round": 0},
    "a lower threshold": lambda c, say: {"threshold": 2, "dones": c.dones[:2]},
    "a threshold that nobody signed": lambda c, say: {"threshold": 4},
    "a threshold beyond 32 bits": lambda c, say: {"threshold": 1 << 32},
    "a peer left out": lambda c, say: {"adverts": c.adverts[1:]},
    "a peer twice": lambda c, say: {"adverts": (c.adverts[0], *c.adverts)},
    "no peer": lambda c, say: {"adverts": ()},
    "Dones of another round": lambda c, say: {"dones": say(Done(c.state), ONE)},
    "Dones for another state": lambda c, say: {"dones": say(Done(ONE), None)},
    "Consents": lambda c, say: {"dones": say(Consent(c.state), None)},
    "a forged Done": lambda c, say: {"dones": (*c.dones[1:], Signed(c.dones[0].envelope, bytes(64)))},
}


@pytest.mark.parametrize("majority", [False, True])
@pytest.mark.parametrize("what", FORGERIES)
def test_a_forged_certificate_is_refused(what: str, majority: bool) -> None:
    certificate, head = true()
    rid, signers = parse_envelope(certificate.dones[0]).rid, [parse_envelope(s).sender for s in certificate.dones]

    def say(body: Message, other: bytes | None) -> tuple[Signed, ...]:
        return tuple(sign(peer, body, other or rid) for peer in signers)

    changes = FORGERIES[what](certificate, say)
    assert learns(msgspec.structs.replace(certificate, **changes), head, majority=majority)


def test_a_head_that_is_not_the_certified_state_is_refused() -> None:
    certificate, head = true()
    other = msgspec.structs.replace(head, bound=2.0)
    assert head_hash(other) != head_hash(head)
    assert learns(certificate, other) == "a head that is not the last certificate's state"
