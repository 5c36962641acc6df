"""One peer signs two messages for one slot: everybody learns of it, and it is in no roster for a day."""

from __future__ import annotations

import pytest

from discod.errors import PeerError
from discod.p2p import effects as fx
from discod.p2p.election import BAN_SECONDS, GRACE_SECONDS
from discod.wire.codec import digest
from discod.wire.rounds import (
    NO_RID,
    Consent,
    Done,
    Have,
    Leave,
    Manifest,
    Message,
    Proof,
    Propose,
    Signed,
    Sum,
    View,
    parse_body,
    parse_envelope,
)
from tests.p2p.puppets import BASE, Puppets
from tests.p2p.stage import Stage
from tests.p2p.table import refused, sign
from tests.p2p.world import peer_id

ONE, OTHER = digest("test/one"), digest("test/other")
SIGNED_ONCE = (Consent, Done, Manifest, Propose)


def entered(rank: int = 1, peers: int = 4) -> Puppets:
    p = Puppets(peers, rank)
    p.enter()
    return p


def another(manifest: Manifest) -> Manifest:
    return Manifest(manifest.start, tuple(reversed(manifest.chunks)))


def two_of(p: Puppets, kind: type[Message]) -> tuple[Signed, Signed]:
    """Two messages of one kind for one slot, by the leader."""
    bodies: dict[type[Message], tuple[Message, Message]] = {
        Consent: (Consent(ONE), Consent(OTHER)),
        Done: (Done(ONE), Done(OTHER)),
        Manifest: (p.manifest(p.leader), another(p.manifest(p.leader))),
        Propose: (p.propose(0, p.everybody), p.propose(0, p.others)),
    }
    one, other = bodies[kind]
    return sign(p.leader, one, p.rid), sign(p.leader, other, p.rid)


@pytest.mark.parametrize("kind", SIGNED_ONCE)
def test_two_different_messages_for_one_slot_are_told_to_everybody(kind: type[Message]) -> None:
    p = entered()
    one, other = two_of(p, kind)
    p.hear(one)
    effects = p.hear(other)
    proofs = [e for e in effects if isinstance(e, fx.Send) and parse_envelope(e.signed).kind == Proof.kind]
    assert {e.to for e in proofs} == set(p.others)
    assert parse_body(parse_envelope(proofs[0].signed)) == Proof(one, other)
    assert [peer for peer, _ in p.notes("peer.equivocated")] == [p.leader]


@pytest.mark.parametrize("kind", SIGNED_ONCE)
def test_a_third_one_is_refused_and_told_to_nobody(kind: type[Message]) -> None:
    p = entered()
    for signed in two_of(p, kind):
        p.hear(signed)
    third: dict[type[Message], Message] = {
        Consent: Consent(BASE),
        Done: Done(BASE),
        Manifest: Manifest(p.attempt.tally.start, (BASE,) * 4),
        Propose: p.propose(0, [p.leader]),
    }
    assert "second, different" in refused(p.machine, sign(p.leader, third[kind], p.rid), p.now)
    assert p.wait(0.1) == []


@pytest.mark.parametrize("kind", SIGNED_ONCE)
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_its_signer_is_in_no_roster_for_a_day(kind: type[Message], rank: int) -> None:
    proof = Proof(*two_of(entered(), kind))
    for waited, kept_out in ((BAN_SECONDS - 10, True), (BAN_SECONDS, False)):
        p = Puppets(4, rank)
        liar = parse_envelope(proof.first).sender
        if liar == p.me:
            return  # nobody bans itself
        p.say(next(peer for peer in p.others if peer != liar), proof, 1, NO_RID)
        p.wait(waited)
        p.ready()
        p.wait(GRACE_SECONDS + 4.0 * rank)
        if kept_out:
            assert p.attempt.terms.roster == tuple(sorted({*p.everybody} - {liar}))
        else:
            assert p.attempt.terms.roster == p.everybody


def test_a_roster_with_its_signer_is_refused_and_one_without_it_called() -> None:
    proof = Proof(*two_of(entered(), Consent))
    p = Puppets(4, rank=1)
    p.say(p.others[1], proof, 1, NO_RID)
    p.ready()
    p.hear(p.roster(p.everybody))
    p.wait(GRACE_SECONDS)
    why = "a roster with a peer that signed two different messages for one slot"
    assert p.notes("roster.refused") == [(p.leader, why)]
    assert (p.attempt.terms.leader, p.attempt.terms.roster) == (p.me, tuple(sorted({*p.everybody} - {p.leader})))


def test_nobody_bans_itself() -> None:
    """Somebody else has my key, or I have been restored from a copy: that is for the others to judge."""
    p = Puppets(4)
    p.say(p.others[0], Proof(sign(p.me, Consent(ONE), ONE), sign(p.me, Consent(OTHER), ONE)), 1, NO_RID)
    p.ready()
    assert p.attempt.terms.roster == p.everybody


@pytest.mark.parametrize("kind", [Manifest, Consent, Propose])
def test_two_messages_that_came_before_the_roster_are_proof_as_well(kind: type[Message]) -> None:
    later = entered()
    p = Puppets(4, rank=1)
    for signed in two_of(later, kind):
        p.hear(signed)
    p.enter()
    assert p.rid == later.rid
    assert [peer for peer, _ in p.notes("peer.equivocated")] == [p.leader]
    assert len(p.sent(Proof)) == 1


def test_the_second_one_may_come_inside_another_message_and_who_carries_it_is_not_blamed() -> None:
    p = entered(rank=2)
    liar = next(peer for peer in p.others if peer != p.leader)
    p.say(liar, p.manifest(liar))
    second = sign(liar, another(p.manifest(liar)), p.rid)
    p.say(p.leader, p.propose(0, p.everybody, (second,)))
    assert [peer for peer, _ in p.notes("peer.equivocated")] == [liar]


def test_a_consent_in_a_view_that_differs_from_the_one_heard_is_proof() -> None:
    p = entered()
    p.say(p.leader, Consent(ONE))
    p.say(p.leader, View(1, sign(p.leader, Consent(OTHER), p.rid), None), 1)
    assert [peer for peer, _ in p.notes("peer.equivocated")] == [p.leader]


def test_a_second_goodbye_is_refused_and_proves_nothing() -> None:
    p = entered()
    p.say(p.leader, Leave("one"))
    assert "second, different leave" in refused(p.machine, sign(p.leader, Leave("other"), p.rid), p.now)
    assert p.notes("peer.equivocated") == []


def nothing(p: Puppets) -> dict[str, tuple[Signed, Signed]]:
    a, b = (peer for peer in p.others if peer != p.leader)
    one, elsewhere = sign(a, Consent(ONE), p.rid), digest("test/another task")
    return {
        "the same message": (one, one),
        "two chunks": (sign(a, Sum(ONE, 0, ONE), p.rid, 0), sign(a, Sum(ONE, 1, ONE), p.rid, 1)),
        "two views": (sign(a, p.propose(0, p.everybody), p.rid, 0), sign(a, p.propose(1, p.others), p.rid, 1)),
        "two rounds": (one, sign(a, Consent(OTHER), OTHER)),
        "two signers": (one, sign(b, Consent(OTHER), p.rid)),
        "two kinds": (one, sign(a, Done(OTHER), p.rid)),
        "a kind that is signed often": (sign(a, Have(b""), p.rid), sign(a, Have(b"x"), p.rid)),
        "two goodbyes": (sign(a, Leave("one"), p.rid), sign(a, Leave("other"), p.rid)),
        "two tasks": (one, sign(a, Consent(OTHER), p.rid, scope=elsewhere)),
        "another task": (sign(a, Consent(ONE), ONE, 0, elsewhere), sign(a, Consent(OTHER), ONE, 0, elsewhere)),
        "a forged one": (one, Signed(sign(a, Consent(OTHER), p.rid).envelope, one.signature)),
        "two of a stranger": (sign(peer_id(9), Consent(ONE), p.rid), sign(peer_id(9), Consent(OTHER), p.rid)),
    }


@pytest.mark.parametrize("what", nothing(entered()))
def test_a_proof_of_nothing_bans_nobody(what: str) -> None:
    p = entered()
    proof = sign(p.leader, Proof(*nothing(p)[what]), NO_RID, 7)
    refused(p.machine, proof, p.now)
    assert p.machine.calling.election.banned == {}
    assert p.notes("peer.equivocated") == []


def test_who_sends_a_false_proof_answers_for_it_and_not_whom_it_names() -> None:
    p = entered()
    with pytest.raises(PeerError) as error:
        p.say(p.leader, Proof(*nothing(p)["a forged one"]), 7, NO_RID)
    assert error.value.peer == p.leader


def test_all_honest_peers_go_on_without_the_one_that_signed_twice() -> None:
    stage = Stage(5, seed=4, min_peers=3)
    stage.boot()
    assert stage.run(60.0, stage.together)
    liar, victim, *_ = stage.peers
    honest, rid = stage.peers[1:], stage.attempts()[stage.peers[1]].terms.rid
    for body in (Consent(ONE), Consent(OTHER)):
        stage.hear(victim, sign(liar, body, rid))
    assert stage.run(10.0, lambda: all(stage.notes(peer, "peer.equivocated") for peer in honest))
    assert {peer for who in honest for peer, _ in stage.notes(who, "peer.equivocated")} == {liar}
    assert stage.run(60.0, lambda: bool(stage.closed_with(rid)))
    told, before = stage.now + 1.0, max(stage.actors[peer].round for peer in honest)
    assert stage.run(120.0, lambda: all(stage.actors[peer].round >= before + 4 for peer in honest))
    rosters = [opened.roster for who, opened in stage.openings(told) if who in honest]
    assert len(rosters) >= 12
    assert all(liar not in roster for roster in rosters)
