"""What a secure sum opens to is the sum of the encodings of U, word for word, whoever vanishes at whatever moment."""

from __future__ import annotations

from collections.abc import Sequence

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from discod import ring
from discod.masks import Masks
from discod.p2p import effects as fx
from tests.p2p.dealers import Dealers
from tests.p2p.masked import MOMENTS, MaskedStage, Update, contribution, mean_error

COUNTED = {"pieces", "receipt", "consent", "unmask", "owner"}  # all its chunks had arrived


# The arithmetic


def opened(codec: ring.Codec, updates: Sequence[Update], opening: Masks) -> ring.Words:
    """Chunk by chunk, as owners do."""
    total = np.empty_like(updates[0].plain)
    for start, stop in ring.chunk_bounds(total.size, codec.peers):
        ring.combine([update.masked[start:stop] for update in updates], total[start:stop], start, opening)
    return total


@given(peers=st.integers(3, 16), d=st.integers(0, 300), seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=40)
def test_any_t_that_show_their_shares_open_the_sum_of_the_encodings(
    peers: int, d: int, seed: int, data: st.DataObject
) -> None:
    """Random sets: U1 of the roster, U of it, and who shows; random weights and values, some beyond the bound."""
    dealers, random = Dealers(peers, seed), np.random.default_rng(seed)
    t = dealers.threshold

    def some(of: Sequence[bytes]) -> list[bytes]:
        return sorted(data.draw(st.permutations(of))[: data.draw(st.integers(t, len(of)))])

    started = dealers.begin(some(dealers.roster))
    included, showing = some(started), some(started)
    codec, base = ring.Codec(peers, 0.5), random.normal(size=d).astype(np.float32)
    updates = [contribution(random, base, codec, dealers.sums[peer].masks()) for peer in included]
    side = dealers.show(data.draw(st.sampled_from(started)), included, showing)
    assert side.can_open
    total = opened(codec, updates, side.opening(included))
    assert total.tolist() == [sum(column) % 2**32 for column in zip(*(u.plain.tolist() for u in updates), strict=True)]
    off, allowed = mean_error(codec, base, updates, total)
    assert off <= allowed


@given(peers=st.integers(3, 16), d=st.integers(1, 300), seed=st.integers(0, 2**32))
@settings(max_examples=30)
def test_the_unweighted_mean_is_within_half_a_step_of_the_codec(peers: int, d: int, seed: int) -> None:
    """B 2^-(m+1), and the float32 roundings of the result: protocol.md 6.4."""
    random, codec, base = np.random.default_rng(seed), ring.Codec(peers, 0.25), np.zeros(d, np.float32)
    updates = random.uniform(-0.25, 0.25, (peers, d)).astype(np.float32)
    words, out = np.empty((peers, d), np.uint32), np.empty_like(base)
    for update, row in zip(updates, words, strict=True):
        ring.encode(update, base, codec, None, row)
    ring.apply_mean(base, words.sum(axis=0, dtype=np.uint32), codec, out, peers)
    off = np.abs(out - updates.astype(np.float64).mean(axis=0))
    assert (off <= codec.bound * 2.0 ** -(codec.bits + 1) + 2.0**-22 * np.abs(out)).all()


@pytest.mark.faults
def test_forty_megabytes_of_eight_peers_are_summed_exactly() -> None:
    """Ten million words each, in one process; two of eight vanish after the Start."""
    d, dealers, random = 10_000_000, Dealers(8), np.random.default_rng(1)
    started = dealers.begin()
    included = [*started[:3], *started[5:]]
    codec, base = ring.Codec(8, 0.5), np.zeros(d, np.float32)
    side = dealers.show(started[0], included, included)
    opening, locals_ = side.opening(included), [random.normal(0, 0.1, d).astype(np.float32) for _ in included]
    masks = [dealers.sums[peer].masks() for peer in included]
    scratch, clipped = np.empty(d + 1, np.uint32), 0
    for chunk, (start, stop) in enumerate(ring.chunk_bounds(d + 1, 8)):
        pieces, plain = np.empty((len(included), stop - start), np.uint32), np.zeros(stop - start, np.uint32)
        for piece, local, hidden in zip(pieces, locals_, masks, strict=True):
            clipped += ring.encode_chunk(local, base, codec, 777, scratch, chunk).clipped
            plain += scratch[start:stop]
            ring.encode_chunk(local, base, codec, 777, scratch, chunk, hidden)
            piece[:] = scratch[start:stop]
        total = np.empty_like(plain)
        ring.combine(list(pieces), total, start, opening)
        assert np.array_equal(total, plain)
    assert clipped == 0


# Whole machines


def entered(stage: MaskedStage) -> tuple[bytes, bytes]:
    """The first attempt: its id and its leader."""
    for actor in stage.actors.values():
        actor.slow = 0.1  # all have trained before anybody has straggled
    stage.boot()
    assert stage.run(60.0, lambda: bool(stage.attempts()))
    terms = next(iter(stage.attempts().values())).terms
    assert len(terms.roster) == len(stage.peers)
    return terms.rid, terms.leader


def ended(stage: MaskedStage, rid: bytes) -> bool:
    """Who has fallen silent is gone, all others have closed the attempt, and they stand on one state."""
    if any(attempt.terms.rid == rid for attempt in stage.attempts().values()):
        return False
    left = {host.peer for host in stage.alive()}
    silent = any(stage.mortals[peer].mute for peer in left)
    return not silent and left <= stage.closed_with(rid).keys() and stage.one_base()


@pytest.mark.parametrize("leading", [False, True])
@pytest.mark.parametrize("moment", MOMENTS)
def test_one_of_five_may_vanish_at_any_moment(moment: str, leading: bool) -> None:
    """Its update counts from the moment on when all its chunks have arrived; another takes over where it has led."""
    _, leader = entered(MaskedStage(5, seed=2, d=400))
    stage = MaskedStage(5, seed=2, d=400)
    victim = leader if leading else next(peer for peer in stage.peers if peer != leader)
    stage.mortals[victim].dies = moment
    rid, _ = entered(stage)
    assert stage.run(120.0, lambda: ended(stage, rid))
    assert stage.mortals[victim].mute
    others = {*stage.peers} - {victim}
    reasons = {stage.closed_with(rid)[peer] for peer in others}
    if (moment, leading) == ("shares", True):  # nobody else may start it
        assert stage.sums == []
        assert "nobody started the round in time" in reasons
        return
    assert reasons <= {"certified", "another base"}
    ((_, included),) = set(stage.sums)
    assert (victim in included) == (moment in COUNTED)
    assert len(included) >= 4
    if moment in ("consent", "unmask", "owner"):
        assert included == {*stage.peers}


@given(peers=st.integers(3, 16), d=st.integers(0, 300), seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=8)
def test_whoever_vanishes_the_sum_is_exact_or_the_round_is_lost_to_all(
    peers: int, d: int, seed: int, data: st.DataObject
) -> None:
    """As many as may vanish, and one more now and then, each at a moment of its own."""
    stage = MaskedStage(peers, seed, d)
    t = 2 * peers // 3 + 1
    for peer in data.draw(st.permutations(stage.peers))[: data.draw(st.integers(0, peers - t + 1))]:
        stage.mortals[peer].dies = data.draw(st.sampled_from(MOMENTS))
    rid, _ = entered(stage)
    assert stage.run(200.0, lambda: ended(stage, rid))
    sums = {included for known, included in stage.sums if known == rid}
    assert len(sums) <= 1
    assert all(len(included) >= t for included in sums)
    certified = {e.head.round for _, _, e in stage.seen if isinstance(e, fx.Adopt)}
    assert certified <= {1}
    assert bool(certified) <= bool(sums)
