"""Owners that die or fall silent, and updates that are bad: the round goes on with what is safe."""

from __future__ import annotations

import pytest

from discod.p2p import effects as fx
from discod.p2p.terms import MOVE_SECONDS, RELINK_SECONDS, Phase
from discod.wire.rounds import Receipt, Sum, parse_body
from tests.p2p.stage import Stage

PEERS = 5


def shared(seed: int, peers: int = PEERS) -> tuple[Stage, bytes]:
    """Everybody is in one attempt, whose id this is."""
    stage = Stage(peers, seed, min_peers=3)
    stage.boot()
    assert stage.run(60.0, stage.together)
    return stage, next(iter(stage.attempts().values())).terms.rid


def opening(stage: Stage) -> bool:
    return any(attempt.phase is Phase.OPENED for attempt in stage.attempts().values())


def agreed(stage: Stage) -> tuple[bytes, ...]:
    """Whose updates are in the sum."""
    attempt = next(a for a in stage.attempts().values() if a.tally.opened is not None)
    return tuple(sorted(attempt.tally.offered[attempt.tally.opened or b""]))


def owner_without_sum(stage: Stage, rid: bytes) -> tuple[bytes, int]:
    """An owner that has contributed, has receipted its chunk, and has not summed it yet."""
    summed = {e.sender for _, e in stage.said(Sum, rid)}
    owners = next(iter(stage.attempts().values())).owners
    bodies = [(e.sender, parse_body(e)) for _, e in stage.said(Receipt, rid) if e.sender in agreed(stage)]
    receipts = [(owner, body.chunk) for owner, body in bodies if isinstance(body, Receipt)]
    return next((o, c) for o, c in receipts if owners.current(c) == o and o not in summed)


def sums(stage: Stage, rid: bytes, chunk: int) -> list[tuple[float, bytes]]:
    """Who announced a sum of this chunk, and when."""
    return [(at, e.sender) for at, e in stage.said(Sum, rid) if e.slot == chunk]


def certified(stage: Stage, rid: bytes, peers: list[bytes]) -> bool:
    return all(stage.closed_with(rid).get(peer) == "certified" for peer in peers)


@pytest.mark.parametrize("seed", [0, 1, 2, 4, 5])  # 3: the first to open has not seen what was proposed
def test_the_chunk_of_an_owner_that_dies_before_its_sum_moves_to_the_next(seed: int) -> None:
    """It holds the safety copy of the dead owner's own piece, whose update is in the sum."""
    stage, rid = shared(seed)
    assert stage.run(60.0, lambda: opening(stage))
    opened, (dead, chunk) = stage.now, owner_without_sum(stage, rid)
    successor, included = stage.attempts()[dead].owners.current(chunk, 1), agreed(stage)
    stage.crash(dead)
    others = [peer for peer in stage.peers if peer != dead]
    assert stage.run(30.0, lambda: certified(stage, rid, others))
    ((at, summed),) = sums(stage, rid, chunk)
    assert summed == successor
    assert opened + RELINK_SECONDS <= at < opened + MOVE_SECONDS
    assert dead in included
    assert {e.included for _, _, e in stage.seen if isinstance(e, fx.Combine) and e.rid == rid} == {included}
    assert stage.run(5.0, stage.one_base)


@pytest.mark.parametrize("seed", [0, 1, 2, 4, 5])  # 3: the first to open has not seen what was proposed
def test_the_chunk_of_an_owner_that_is_linked_and_silent_moves_to_the_next(seed: int) -> None:
    stage, rid = shared(seed)
    assert stage.run(60.0, lambda: opening(stage))
    opened, (silent, chunk) = stage.now, owner_without_sum(stage, rid)
    successor = stage.attempts()[silent].owners.current(chunk, 1)
    stage.silent = lambda a, b, e: a == silent and (e.kind, e.rid) == (Sum.kind, rid)
    stage.silent_bulk = lambda a, b, kind: a == silent and kind == "sum"
    assert stage.run(30.0, lambda: certified(stage, rid, [p for p in stage.peers if p != silent]))
    (at, _) = next((at, who) for at, who in sums(stage, rid, chunk) if who == successor)
    assert opened + MOVE_SECONDS <= at < opened + MOVE_SECONDS + 3.0
    assert stage.run(5.0, stage.one_base)


def test_the_sum_of_two_neighbours_that_die_is_lost_and_the_next_round_is_not() -> None:
    """Nobody else holds the first one's piece of its own chunk: t are left to certify, and they have no sum."""
    stage, rid = shared(1, peers=8)
    assert stage.run(60.0, lambda: opening(stage))
    dead, chunk = owner_without_sum(stage, rid)
    owners = next(iter(stage.attempts().values())).owners
    assert owners.current(chunk) == dead
    next_one = owners.current(chunk, 1)
    for peer in (dead, next_one):
        stage.crash(peer)
    others = [peer for peer in stage.peers if peer not in (dead, next_one)]
    assert stage.run(60.0, lambda: all(peer in stage.closed_with(rid) for peer in others))
    assert "no certificate in time" in stage.closed_with(rid).values()
    assert "certified" not in stage.closed_with(rid).values()
    base = max(stage.actors[peer].round for peer in others)
    assert stage.run(120.0, lambda: all(stage.actors[peer].round >= base + 2 for peer in others))


@pytest.mark.parametrize("seed", range(3))
def test_an_owner_that_dies_before_its_receipts_is_passed_over(seed: int) -> None:
    stage, rid = shared(seed)
    attempt = next(iter(stage.attempts().values()))
    dead = next(peer for peer in attempt.owners.order if peer != attempt.terms.leader)
    stage.crash(dead)
    others = [peer for peer in stage.peers if peer != dead]
    assert stage.run(20.0, lambda: certified(stage, rid, others))
    combined = [e for _, _, e in stage.seen if isinstance(e, fx.Combine) and e.rid == rid]
    assert {e.chunk for e in combined} == set(range(PEERS))
    assert {e.included for e in combined} == {tuple(sorted(others))}


@pytest.mark.parametrize("seed", [0, 4, 6])  # 1, 2: it trains too long to be waited for; 3: its update is out
def test_a_bad_update_is_named_to_the_others_and_the_round_goes_on_without_it(seed: int) -> None:
    stage, rid = shared(seed)
    bad = next(peer for peer in stage.peers if peer != stage.attempts()[peer].terms.leader)
    why = "not a number in dense/kernel"
    stage.actors[bad].bad = why
    others = [peer for peer in stage.peers if peer != bad]
    (before,), start = {stage.actors[peer].disk.tokens for peer in stage.peers}, stage.now
    assert stage.run(30.0, lambda: certified(stage, rid, others))
    for peer in others:
        assert [text for who, text in stage.notes(peer, "peer.left", start) if who == bad] == [why]
    assert stage.closed_with(rid)[bad] == why
    (tokens,) = {stage.actors[peer].disk.tokens for peer in others}
    assert {peer for peer, _ in tokens - before} == set(others)


def test_who_had_a_bad_update_is_in_the_next_round_with_a_better_one() -> None:
    stage, rid = shared(0)
    bad = next(peer for peer in stage.peers if peer != stage.attempts()[peer].terms.leader)
    stage.actors[bad].bad = "infinite"
    assert stage.run(30.0, lambda: bad in stage.closed_with(rid))
    stage.actors[bad].bad = ""
    stage.actors[bad].update.clear()
    stage.actors[bad].begin_training()
    assert stage.run(60.0, lambda: any(peer == bad for peer, _ in stage.actors[stage.peers[0]].disk.tokens))


def test_a_goodbye_is_noted_once_shortened_and_printable() -> None:
    stage, rid = shared(0)
    (leaving, hearing, *_), start = stage.peers, stage.now
    stage.actors[leaving].bad = "\x1b[2Jbad" + "!" * 500
    assert stage.run(30.0, lambda: leaving in stage.closed_with(rid))
    stage.run(1.0)
    ((who, text),) = [note for note in stage.notes(hearing, "peer.left", start) if note[0] == leaving]
    assert who == leaving
    assert text.isprintable()
    assert text.startswith("[2Jbad!")
    assert len(text) <= 200
