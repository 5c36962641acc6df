"""A leader that is silent, or proposes two things: the next in view order takes over and one sum is certified."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from discod.p2p import effects as fx
from discod.p2p.certificate import bitmap, from_bitmap
from discod.p2p.safety import proposal
from discod.p2p.terms import VIEW_SECONDS, VIEWS, Phase
from discod.wire.rounds import (
    Consent,
    Envelope,
    Message,
    Propose,
    Reassign,
    Receipt,
    Roster,
    View,
    parse_body,
    parse_envelope,
)
from tests.p2p.puppets import Puppets
from tests.p2p.stage import Stage
from tests.p2p.table import sign

STRAGGLE = 2.0


def leading(view: int, peers: int = 4) -> Puppets:
    """Everybody has shared; I lead this view."""
    for nonce in range(64):
        p = Puppets(peers, rank=1)
        p.enter(nonce)
        if p.attempt.view_order[view] == p.me:
            p.share()
            return p
    raise AssertionError("the order does not depend on the round id")


def proposals(p: Puppets) -> list[tuple[int, frozenset[bytes]]]:
    bodies = [parse_body(parse_envelope(signed)) for signed in p.sent(Propose)]
    return [(b.view, from_bitmap(b.included, p.attempt.terms.roster)) for b in bodies if isinstance(b, Propose)]


def views(p: Puppets) -> list[View]:
    return [body for s in p.sent(View) if isinstance(body := parse_body(parse_envelope(s)), View)]


def vote(p: Puppets, view: int, votes: dict[bytes, tuple[int, Collection[bytes]] | None]) -> None:
    """Views that say to what their senders have consented: a Propose of this view, over these peers."""
    for peer, voted in votes.items():
        if voted is None:
            p.say(peer, View(view, None, None), view)
            continue
        of, included = voted
        offer = sign(p.attempt.view_order[of], p.propose(of, included), p.rid, of)
        p.say(peer, View(view, sign(peer, Consent(p.uh(included)), p.rid), offer), view)


def test_after_the_straggle_and_five_seconds_of_silence_the_next_in_order_proposes() -> None:
    p = leading(1)
    everybody = frozenset(p.everybody)
    assert p.wait(STRAGGLE + VIEW_SECONDS - 0.1) == []
    p.wait(0.2)
    assert [view.view for view in views(p)] == [1]
    vote(p, 1, {p.others[0]: None})
    assert proposals(p) == []  # with mine, two of the three Views that are needed
    vote(p, 1, {p.others[1]: None})
    assert proposals(p) == [(1, everybody)]
    vote(p, 1, {p.others[2]: None})
    assert proposals(p) == [(1, everybody)]


def test_each_view_lasts_twice_as_long_and_the_last_one_ends_the_attempt() -> None:
    p = leading(1)
    for view, until in enumerate((5, 15, 35)):
        p.wait(STRAGGLE + until - 0.1 - p.now)
        assert len(views(p)) == view
        p.wait(0.2)
        assert len(views(p)) == view + 1
    p.wait(STRAGGLE + VIEW_SECONDS * (2**VIEWS - 1) - 0.1 - p.now)
    assert p.machine.attempt is not None
    p.wait(0.2)
    assert [close.reason for close in p.all(fx.Close)] == ["no agreement on whose updates to sum in time"]
    assert len(views(p)) == VIEWS - 1


def test_a_later_view_repeats_the_sum_that_somebody_has_consented_to() -> None:
    p = leading(1)
    some = [peer for peer in p.everybody if peer != p.others[2]]
    p.wait(STRAGGLE + VIEW_SECONDS + 0.1)
    vote(p, 1, {p.others[0]: (0, some), p.others[1]: None})
    assert proposals(p) == [(1, frozenset(some))]  # though everybody is whole
    assert [parse_body(parse_envelope(s)) for s in p.sent(Consent)] == [Consent(p.uh(some))]


@pytest.mark.parametrize("more", [0, 1])
def test_of_two_sums_the_one_that_more_have_consented_to_is_repeated(more: int) -> None:
    p = leading(2, peers=5)
    sums = [p.everybody, tuple(peer for peer in p.everybody if peer != p.others[3])]
    p.wait(STRAGGLE + 3 * VIEW_SECONDS + 0.1)
    assert [view.view for view in views(p)] == [1, 2]
    first, *rest = p.others
    few, many = (1 - more, sums[1 - more]), (more, sums[more])
    vote(p, 2, {first: few, rest[0]: many, rest[1]: many})
    assert proposals(p) == [(2, frozenset(sums[more]))]


def test_of_two_sums_with_equal_consents_the_lower_hash_is_repeated() -> None:
    p = leading(2)
    sums: list[tuple[bytes, ...]] = [p.everybody, tuple(peer for peer in p.everybody if peer != p.others[2])]
    p.wait(STRAGGLE + 3 * VIEW_SECONDS + 0.1)
    vote(p, 2, {p.others[0]: (0, sums[0]), p.others[1]: (1, sums[1])})
    assert proposals(p) == [(2, frozenset(sums[p.uh(sums[0]) > p.uh(sums[1])]))]


def test_my_view_carries_my_consent_and_i_give_no_other() -> None:
    p = leading(2)
    leader, other = p.attempt.view_order[0], p.attempt.view_order[1]
    p.say(leader, p.propose(0, p.everybody))
    assert [parse_body(parse_envelope(s)) for s in p.sent(Consent)] == [Consent(p.uh(p.everybody))]
    p.wait(STRAGGLE + VIEW_SECONDS + 0.1)
    (view,) = views(p)
    assert view.consent in p.sent(Consent)
    assert view.propose == sign(leader, p.propose(0, p.everybody), p.rid)
    p.say(other, p.propose(1, [peer for peer in p.everybody if peer != leader]), 1)
    assert len(p.sent(Consent)) == 1


def test_a_proposal_of_an_earlier_view_than_mine_gets_no_consent() -> None:
    p = leading(2)
    p.wait(STRAGGLE + VIEW_SECONDS + 0.1)
    p.say(p.attempt.view_order[0], p.propose(0, p.everybody))
    assert p.sent(Consent) == []
    p.say(p.attempt.view_order[1], p.propose(1, p.everybody), 1)
    assert len(p.sent(Consent)) == 1


def test_leaders_that_together_name_too_many_owners_gone_do_not_stop_the_next() -> None:
    """Found by reading: one by one they are few enough, and the third leader's proposal named them all."""
    p = leading(2)
    for view, leader in enumerate(p.attempt.view_order[:2]):
        p.say(leader, Reassign(view, bitmap([p.others[view]], p.everybody)), view << 16)
    assert p.attempt.owners.gone == {p.others[0]}
    p.wait(STRAGGLE + 3 * VIEW_SECONDS + 0.1)
    vote(p, 2, {p.others[0]: (0, p.everybody), p.others[1]: None})
    for owner in p.others:
        p.pieces(owner)
        for chunk in p.attempt.owners.chunks:
            p.say(owner, *receipt_of_all(p, owner, chunk))
    ((view, included),) = proposals(p)
    assert (view, included) == (2, frozenset(p.everybody))


def receipt_of_all(p: Puppets, owner: bytes, chunk: int) -> tuple[Receipt, int]:
    pieces = tuple((peer, p.manifest_hash(peer)) for peer in p.everybody if peer != owner)
    return Receipt(chunk, pieces), (chunk << 16) + 9


def test_who_missed_the_consents_is_shown_them_when_it_asks_for_a_view() -> None:
    p = leading(1)
    p.say(p.leader, p.propose(0, p.everybody))
    *consenting, late = p.others
    for peer in consenting:
        p.say(peer, Consent(p.uh(p.everybody)))
    assert p.attempt.phase is Phase.OPENED
    shown = [e.signed for e in p.say(late, View(1, None, None), 1) if isinstance(e, fx.Send) and e.to == late]
    kinds = [parse_envelope(signed).kind for signed in shown]
    assert kinds[0] == Propose.kind
    assert kinds.count(Consent.kind) >= 3


def entered(peers: int, seed: int) -> tuple[Stage, bytes, bytes]:
    """A world in which everybody has just entered one attempt; its id and leader."""
    stage = Stage(peers, seed, min_peers=3)
    stage.boot()
    assert stage.run(60.0, stage.together)
    terms = next(iter(stage.attempts().values())).terms
    return stage, terms.rid, terms.leader


def certified_by(stage: Stage, rid: bytes, peers: Collection[bytes], seconds: float = 60.0) -> bool:
    return stage.run(seconds, lambda: all(stage.closed_with(rid).get(peer) == "certified" for peer in peers))


@pytest.mark.parametrize("seed", range(4))
def test_a_leader_that_dies_after_its_roster_does_not_cost_the_round(seed: int) -> None:
    stage, rid, leader = entered(4, seed)
    order = stage.attempts()[leader].view_order
    stage.crash(leader)
    others = [peer for peer in stage.peers if peer != leader]
    assert certified_by(stage, rid, others)
    (proposed,) = [e for _, e in stage.said(Propose, rid)]
    assert (proposed.sender, proposed.slot) == (order[1], 1)
    assert stage.run(120.0, lambda: all(stage.actors[p].round >= 4 for p in others))


@pytest.mark.parametrize("seed", range(4))
def test_a_leader_that_tells_nobody_what_it_proposes_is_succeeded_and_its_sum_repeated(seed: int) -> None:
    """It has consented to its own proposal, so the next in order may propose nothing else."""
    stage, rid, leader = entered(4, seed)
    stage.silent = lambda a, b, e: a == leader and e.rid == rid and e.kind in (Propose.kind, Reassign.kind)
    assert certified_by(stage, rid, stage.peers)
    bodies = [(e.sender, parse_body(e)) for _, e in stage.said(Propose, rid)]
    offers = {(sender, b.view, b.included) for sender, b in bodies if isinstance(b, Propose)}
    assert (leader, 0) in {(sender, view) for sender, view, _ in offers}
    assert len({included for _, _, included in offers}) == 1
    assert stage.run(1.0, stage.one_base)


def two_faced(stage: Stage, rid: bytes, leader: bytes, fooled: Collection[bytes]) -> None:
    """These peers hear a proposal without the last of the roster from the leader, the others the true one."""
    attempt = stage.attempts()[leader]

    def other_sum(body: Propose) -> Message | None:
        roster, tally = attempt.terms.roster, attempt.tally
        included = from_bitmap(body.included, roster)
        return proposal(attempt.terms, tally, attempt.owners.gone, body.view, included - {max(included)})

    def instead(a: bytes, b: bytes, envelope: Envelope) -> Message | None:
        body = parse_body(envelope)
        lies = isinstance(body, Propose) and envelope.rid == rid and envelope.sender == leader and b in fooled
        return other_sum(body) if lies and isinstance(body, Propose) else None

    stage.instead = instead


@pytest.mark.parametrize("seed", range(3))
def test_a_leader_that_proposes_two_sums_opens_one(seed: int) -> None:
    """One is fooled: it has consented to another sum, and takes the sum of the others all the same."""
    stage, rid, leader = entered(5, seed)
    fooled = next(peer for peer in stage.peers if peer != leader)
    two_faced(stage, rid, leader, [fooled])
    assert stage.run(60.0, lambda: len(stage.closed_with(rid)) == 5)
    assert set(stage.closed_with(rid).values()) <= {"certified", "another base"}  # or fetched from those who have it
    consents = {parse_body(e) for _, e in stage.said(Consent, rid)}
    assert len(consents) == 2
    adopted = [e for _, _, e in stage.seen if isinstance(e, fx.Adopt)]
    assert len({e.head for e in adopted if e.head.round == max(a.head.round for a in adopted)}) == 1


@pytest.mark.parametrize("seed", range(3))
def test_a_leader_that_splits_the_peers_between_two_sums_opens_none_and_is_out_for_a_day(seed: int) -> None:
    stage, rid, leader = entered(5, seed)
    others = [peer for peer in stage.peers if peer != leader]
    two_faced(stage, rid, leader, others[:2])
    assert stage.run(120.0, lambda: bool(stage.closed_with(rid)))
    assert stage.run(5.0, lambda: len(stage.closed_with(rid)) == 5)
    assert "certified" not in stage.closed_with(rid).values()
    assert all({peer for peer, _ in stage.notes(p, "peer.equivocated")} == {leader} for p in others)
    after = stage.now
    assert stage.run(120.0, lambda: all(stage.actors[p].round >= 3 for p in others))
    assert all(leader not in opened.roster for who, opened in stage.openings(after) if who in others)


def test_the_roster_reaches_those_whom_its_leader_did_not_tell() -> None:
    """It dies half-way through sending it."""
    stage = Stage(4, seed=2, min_peers=3)
    told: set[bytes] = set()

    def silent(a: bytes, b: bytes, envelope: Envelope) -> bool:
        if envelope.kind != Roster.kind or a != envelope.sender or stage.actors[a].round > 0:
            return False
        told.add(b)
        return len(told) > 1

    stage.silent = silent
    stage.boot()
    assert stage.run(30.0, stage.together)
    rid = next(iter(stage.attempts().values())).terms.rid
    stage.silent = lambda a, b, e: False
    assert certified_by(stage, rid, stage.peers)
