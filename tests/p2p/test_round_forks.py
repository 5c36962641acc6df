"""A partition in which both sides go on: once it heals, one side's rounds are given up, and nothing counts twice."""

from __future__ import annotations

import itertools

import pytest

from discod.p2p import effects as fx
from discod.wire.rounds import head_hash
from tests.p2p.stage import Stage
from tests.p2p.world import Tokens

ROUNDS_APART = 3


def halves(stage: Stage) -> tuple[list[bytes], list[bytes]]:
    return stage.peers[:3], stage.peers[3:]


def apart(seed: int, peers: int = 6) -> Stage:
    """Peers on one base, then in two halves that have certified several rounds each."""
    stage = Stage(peers, seed, min_peers=3)
    stage.boot()
    assert stage.run(60.0, lambda: min(actor.round for actor in stage.actors.values()) >= 2)
    one, other = halves(stage)
    for a, b in itertools.product(one, other):
        stage.cut_link(a, b)
    start = max(actor.round for actor in stage.actors.values())
    assert stage.run(200.0, lambda: min(a.round for a in stage.actors.values()) >= start + ROUNDS_APART)
    return stage


def tokens(stage: Stage, peers: list[bytes]) -> Tokens:
    """What these have in common."""
    return frozenset.intersection(*(stage.actors[peer].disk.tokens for peer in peers))


@pytest.mark.parametrize("seed", range(6))
def test_two_halves_that_went_on_apart_are_one_again_within_two_rounds(seed: int) -> None:
    stage = apart(seed)
    one, other = halves(stage)
    before = {tuple(one): tokens(stage, one), tuple(other): tokens(stage, other)}
    assert before[tuple(one)] - before[tuple(other)]
    assert before[tuple(other)] - before[tuple(one)]
    bases = {head_hash(actor.disk.head) for actor in stage.actors.values()}
    highest = max(actor.round for actor in stage.actors.values())
    stage.heal()
    assert stage.run(60.0, stage.one_base)
    assert max(actor.round for actor in stage.actors.values()) <= highest + 2
    won, lost = (one, other) if before[tuple(one)] <= tokens(stage, stage.peers) else (other, one)
    assert before[tuple(won)] <= tokens(stage, stage.peers)
    given_up = before[tuple(lost)] - before[tuple(won)]
    assert not given_up & tokens(stage, stage.peers)
    assert len(bases) >= 2
    start = max(actor.round for actor in stage.actors.values())
    assert stage.run(200.0, lambda: min(a.round for a in stage.actors.values()) >= start + 3)
    assert stage.run(60.0, stage.one_base)
    assert not given_up & tokens(stage, stage.peers)  # spent is spent


@pytest.mark.parametrize("seed", range(6))
def test_all_six_are_in_one_roster_after_a_fork(seed: int) -> None:
    stage = apart(seed)
    stage.heal()
    assert stage.run(60.0, stage.one_base)
    healed = stage.now
    assert stage.run(60.0, lambda: any(len(opened.roster) == 6 for _, opened in stage.openings(healed)))


@pytest.mark.parametrize("seed", range(4))
def test_the_heavier_half_wins(seed: int) -> None:
    """Four against three of seven, both with enough for a round."""
    stage = apart(seed, peers=7)
    few, many = halves(stage)
    kept, given_up = tokens(stage, many), tokens(stage, few) - tokens(stage, many)
    stage.heal()
    assert stage.run(60.0, stage.one_base)
    assert kept <= tokens(stage, stage.peers)
    assert given_up
    assert not given_up & tokens(stage, stage.peers)


def test_with_a_majority_rule_neither_half_of_six_goes_on() -> None:
    stage = Stage(6, seed=0, min_peers=3)
    object.__setattr__(stage.rules, "majority", True)
    stage.boot()
    assert stage.run(60.0, lambda: min(actor.round for actor in stage.actors.values()) >= 2)
    one, other = halves(stage)
    for a, b in itertools.product(one, other):
        stage.cut_link(a, b)
    stage.run(60.0)  # what was certified already is fetched
    base = {peer: actor.disk.head for peer, actor in stage.actors.items()}
    stage.run(300.0)
    assert {peer: actor.disk.head for peer, actor in stage.actors.items()} == base
    assert len({head_hash(head) for head in base.values()}) <= 2
    stage.heal()
    assert stage.run(120.0, lambda: min(a.round for a in stage.actors.values()) >= 4)
    assert stage.run(60.0, stage.one_base)
    adopted = [e.head for _, _, e in stage.seen if isinstance(e, fx.Adopt)]
    by_round = {head.round: {head_hash(h) for h in adopted if h.round == head.round} for head in adopted}
    assert all(len(states) == 1 for states in by_round.values())
