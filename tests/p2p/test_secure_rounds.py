"""Attacks on secure sums in whole meshes of real machines: leaders that lie, and peers that start again at any time."""

from __future__ import annotations

import pytest

from discod.p2p import effects as fx
from discod.p2p.certificate import from_bitmap
from discod.p2p.safety import proposal
from discod.wire.rounds import (
    Consent,
    Envelope,
    Leave,
    Message,
    Propose,
    Reassign,
    Unmask,
    View,
    parse_body,
    parse_envelope,
)
from tests.p2p.masked import MaskedStage

LATE = 15.0  # seconds; two rounds are over by then


def meeting(peers: int = 4, seed: int = 2) -> MaskedStage:
    """All have trained before anybody has straggled."""
    stage = MaskedStage(peers, seed, d=300)
    object.__setattr__(stage.rules, "min_peers", 3)
    for actor in stage.actors.values():
        actor.slow = 0.1
    return stage


def entered(stage: MaskedStage) -> tuple[bytes, bytes]:
    """Everybody is in one attempt: its id and its leader."""
    stage.boot()
    assert stage.run(60.0, stage.together)
    terms = next(iter(stage.attempts().values())).terms
    return terms.rid, terms.leader


def check_inputs(stage: MaskedStage) -> None:
    """No two masked words stand for one update: under one base there are further batches in the later one."""
    for peer in stage.peers:
        mine = [tokens for who, _, tokens in stage.inputs if who == peer]
        assert len(set(mine)) == len(mine)
        assert all(mine)


def restarted(number: int, victim: int) -> MaskedStage | None:
    """The victim is gone after so many messages, and comes back; None when it never says so many in time."""
    stage = meeting()
    mortal = stage.mortals[stage.peers[victim]]
    mortal.restarts_after = number
    stage.boot()
    stage.run(LATE, lambda: mortal.restarted < stage.now - 3.0)
    return stage if mortal.restarted < stage.now else None


def test_who_starts_again_between_any_two_messages_says_goodbye_at_most_in_what_it_had_entered() -> None:
    """From the first message into the second round: it signs nothing else under an old round id, and masks nothing.

    The stage itself asserts that no update is counted twice and that one round id has one state.
    """
    kinds = set()
    for number in range(1, 27):
        if (stage := restarted(number, number % 2)) is None:
            break
        peer = stage.peers[number % 2]
        at = stage.mortals[peer].restarted
        mine = [(t, e) for t, who, e in stage.seen if who == peer]
        old = {e.rid for t, e in mine if isinstance(e, fx.Open) and t < at}
        said = [(t, parse_envelope(e.signed)) for t, e in mine if isinstance(e, fx.Send)]
        again = {e.kind for t, e in said if t >= at and e.sender == peer and e.rid in old}
        assert again <= {Leave.kind}, number
        assert {e.rid for t, e in mine if isinstance(e, fx.Contribute) and t >= at}.isdisjoint(old)
        check_inputs(stage)
        assert stage.run(60.0, stage.one_base)
        kinds.add([envelope.kind for t, envelope in said if t < at][-1])
    assert kinds >= {"advert", "shares", "have", "manifest", "receipt", "consent", "unmask", "sum", "done"}


@pytest.mark.parametrize("seed", range(2))
def test_a_leader_that_withholds_its_propose_gets_no_update_into_two_sums(seed: int) -> None:
    """It has consented to its own, so the next in order must repeat it; and what is masked again holds more."""
    stage = meeting(seed=seed)
    rid, leader = entered(stage)
    stage.silent = lambda a, b, e: e.sender == leader and e.rid == rid and e.kind in (Propose.kind, Reassign.kind)
    assert stage.run(60.0, lambda: len(stage.closed_with(rid)) == 4 and stage.one_base())
    assert len({included for known, included in stage.sums if known == rid}) == 1
    check_inputs(stage)


def test_a_leader_that_withholds_everything_after_the_manifests_gets_none() -> None:
    """No Propose, no View and no Consent of it, and nobody else's View: the round is lost, and its sum never opened."""
    stage = meeting()
    rid, leader = entered(stage)
    hidden = (Propose.kind, Reassign.kind, View.kind, Consent.kind)
    stage.silent = lambda a, b, e: e.rid == rid and e.kind in hidden and (e.sender == leader or e.kind == View.kind)
    assert stage.run(120.0, lambda: len(stage.closed_with(rid)) == 4)
    assert "certified" not in stage.closed_with(rid).values()
    assert [included for known, included in stage.sums if known == rid] == []
    assert [envelope for _, envelope in stage.said(Unmask, rid)] == []
    stage.run(10.0)
    check_inputs(stage)


def two_faced(stage: MaskedStage, rid: bytes, leader: bytes, fooled: list[bytes]) -> None:
    """These hear of a sum without the last of the roster."""
    attempt = stage.attempts()[leader]

    def instead(a: bytes, b: bytes, envelope: Envelope) -> Message | None:
        body = parse_body(envelope)
        if not isinstance(body, Propose) or (envelope.rid, envelope.sender) != (rid, leader) or b not in fooled:
            return None
        included = from_bitmap(body.included, attempt.terms.roster)
        terms, tally, gone = attempt.terms, attempt.tally, attempt.owners.gone
        return proposal(terms, tally, gone, body.view, included - {max(included)})

    stage.instead = instead


@pytest.mark.parametrize("fooled", [1, 2])
def test_a_leader_that_shows_different_sets_to_different_peers_opens_one_at_most(fooled: int) -> None:
    stage = meeting(5)
    rid, leader = entered(stage)
    others = [peer for peer in stage.peers if peer != leader]
    two_faced(stage, rid, leader, others[:fooled])
    assert stage.run(120.0, lambda: len(stage.closed_with(rid)) == 5)
    shown = {body.uh for _, e in stage.said(Unmask, rid) if isinstance(body := parse_body(e), Unmask)}
    opened = {included for known, included in stage.sums if known == rid}
    assert len(shown) == len(opened) == int(fooled == 1)
    consents = {body.uh for _, e in stage.said(Consent, rid) if isinstance(body := parse_body(e), Consent)}
    assert len(consents) == 2
    assert stage.run(60.0, stage.one_base)
    check_inputs(stage)


def test_an_unspent_update_moves_to_a_new_base_and_a_spent_one_does_not() -> None:
    """One that was left out of a sum is masked again on the new base with what it held; one that was spent is gone."""
    stage = meeting(4)
    slow = stage.actors[stage.peers[0]]
    slow.slow = 20.0
    rid, _ = entered(stage)
    assert stage.run(120.0, lambda: min(actor.round for actor in stage.actors.values()) >= 4)
    spent = {(peer, token) for peer, known, tokens in stage.inputs if known == rid for token in tokens}
    later = [(peer, token) for peer, known, tokens in stage.inputs if known != rid for token in tokens]
    closed = stage.closed_with(rid)
    assert all(closed[peer] in ("certified", "another base") for peer in stage.peers)
    assert spent.isdisjoint(later)
    check_inputs(stage)
