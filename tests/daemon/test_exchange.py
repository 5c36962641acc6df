"""Rounds of the real exchange: what comes back, what is measured from where, who is left out and who hears why."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pytest
import trio
from numpy.typing import NDArray
from trio.testing import MockClock

from discod import ring
from discod.train.rounds import JointState
from discod.train.vector import Vector
from tests.daemon.circle import Circle, D, Peer, circle, in_place, joined, task_of, until
from tests.train.exchanges import check_exchange

HUGE = np.float32(3e38)
LAST = 16  # the first element of the second tensor, dense1.bias


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio.to_thread, "run_sync", in_place)


def steps(seed: int, count: int = 3) -> list[Vector]:
    random: NDArray[np.float64] = np.random.default_rng(seed).uniform(-0.3, 0.3, (count, D))
    return list(random.astype(np.float32))


def same(states: list[JointState | None]) -> JointState:
    """The state that all of them are."""
    first = states[0]
    assert first is not None
    for state in states:
        assert state is not None
        assert (state.round, state.contributors) == (first.round, first.contributors)
        assert state.parameters.tobytes() == first.parameters.tobytes()
    return first


@pytest.mark.parametrize("aggregator", ["mean", "secure"])
async def test_three_exchanges_keep_the_contract_and_agree(
    autojump_clock: MockClock, tmp_path: Path, aggregator: Literal["mean", "secure"]
) -> None:
    came: dict[str, list[JointState | None]] = {}

    async def drive(peer: Peer) -> None:
        came[peer.name] = await check_exchange(peer.exchange, D)

    async with circle(tmp_path, 3, task_of(3, aggregator)) as c, trio.open_nursery() as nursery:
        for peer in c.peers:
            nursery.start_soon(drive, peer)
    task, base, bound = task_of(3), np.zeros(D, np.float32), 1.0
    for number, states in enumerate(zip(*came.values(), strict=True)):
        local = base + np.float32(number + 1)
        base, bound = joined(base, bound, task, [(local, 10 * (number + 1))] * 3, 3)
        assert same(list(states)).round == number + 1
        assert same(list(states)).parameters.tobytes() == base.tobytes()
        assert len(same(list(states)).contributors) == 3


@pytest.mark.parametrize("weighting", ["samples", "uniform"])
async def test_states_are_those_of_the_codec_with_a_bound_that_follows(
    autojump_clock: MockClock, tmp_path: Path, weighting: str
) -> None:
    task = task_of(3, weighting=weighting, bound=0.125)  # smaller than the first updates: they are clipped
    base, bound, bounds = np.zeros(D, np.float32), 0.125, []
    weights = [(100, 37, 5), (100, 100, 3), (1, 250, 60)]
    async with circle(tmp_path, 3, task) as c:
        for number, samples in enumerate(weights):
            await c.begin()
            given = list(zip(c.peers, steps(number), samples, strict=True))
            updates = [(base + step, count) for _, step, count in given]
            state = same(await c.share(given))
            base, bound = joined(base, bound, task, updates, 3)
            bounds.append(bound)
            assert state.parameters.tobytes() == base.tobytes()
            assert {peer.exchange.base for peer in c.peers} == {c.peers[0].exchange.base}
            assert {peer.machine.chain.base.bound for peer in c.peers} == {bound}
    assert len(set(bounds)) > 1
    assert bounds[0] != 0.125


@pytest.mark.parametrize(("aggregator", "liars"), [("median", 0), ("trimmed-mean", 1)])
async def test_a_false_update_moves_a_robust_state_no_further_than_the_true_ones(
    autojump_clock: MockClock, tmp_path: Path, aggregator: Literal["median", "trimmed-mean"], liars: int
) -> None:
    """Four certify what sorting in float64 gives, in a chunk of each of them; claims of many samples count nothing."""
    task = task_of(4, aggregator, liars=liars)
    async with circle(tmp_path, 4, task) as c:
        base = np.zeros(D, np.float32)
        for number in range(2):
            await c.begin()
            true = steps(number)
            given = list(zip(c.peers, [*true, np.full(D, 0.9, np.float32)], (1, 2, 3, 10**6), strict=True))
            state = same(await c.share(given))
            ordered = np.sort([*(step.astype(np.float64) for step in true), np.full(D, 0.9)], axis=0)
            assert np.abs(state.parameters - base - ordered[1:3].mean(axis=0)).max() < 1e-6
            assert (state.parameters - base <= np.max(true, axis=0) + 1e-6).all()
            base = state.parameters.copy()


async def test_weights_and_no_weights_differ(autojump_clock: MockClock, tmp_path: Path) -> None:
    """The test above tests something: the two rules give different states for its updates."""
    base, updates = np.zeros(D, np.float32), list(zip(steps(0), (100, 37, 5), strict=True))
    one, other = (joined(base, 0.5, task_of(3, weighting=rule), updates, 3)[0] for rule in ("samples", "uniform"))
    assert np.abs(one - other).max() > 0.01
    exact = sum(step.astype(np.float64) * count for step, count in updates) / (100 + 37 + 5)
    assert np.abs(one - exact).max() < 2e-5  # weight words have 16 bits


async def test_one_of_three_with_an_infinite_difference_leaves_and_the_others_go_on(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    first = np.zeros(D, np.float32)
    first[LAST] = -HUGE
    task = task_of(2)
    async with circle(tmp_path, 3, task, first) as c:
        anna, bert, carl = c.peers
        await c.begin()
        carl.parameters[LAST] = 0.0  # it ends on 3e38: a finite value, too far from a finite value
        assert await c.share([(anna, 0.25, 80), (bert, 0.5, 40), (carl, float(HUGE), 100)]) == [None] * 3
        why = "the update holds NaN or infinity in dense1.bias"
        for peer in (anna, bert):
            assert {"peer": "carl", "why": why} in peer.told("peer.left")
            assert peer.told("round.closed") == [
                {"round": 1, "why": "2 of the 3 peers needed are left", "spent": peer.told("round.closed")[0]["spent"]}
            ]
        assert carl.told("round.closed") == [{"round": 1, "why": why, "spent": False}]
        assert carl.store.spent(task.id) == []
        carl.exchange.retire(why)
        await until(lambda: not anna.machine.calling.election.links[carl.id].training)
        for peer in (anna, bert):
            assert await peer.begin() is None
        state = same(await c.share([(anna, 0.0, 80), (bert, 0.0, 40)]))
        assert set(state.contributors) == {anna.id, bert.id}
        quarter, half = first + np.float32(0.25), first + np.float32(0.5)
        assert state.parameters.tobytes() == joined(first, 1.0, task, [(quarter, 80), (half, 40)], 2)[0].tobytes()
        await until(lambda: carl.exchange.round == 1)  # it trains no more, and holds what the others made


async def test_one_of_four_with_an_infinite_difference_is_left_out_of_the_same_round(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    first = np.zeros(D, np.float32)
    first[0] = -HUGE
    task = task_of(4)
    async with circle(tmp_path, 4, task, first) as c:
        anna, bert, carl, dora = c.peers
        await c.begin()
        dora.parameters[0] = HUGE
        *states, none = await c.share([(anna, 0.5, 100), (bert, 0.25, 50), (carl, 0.125, 25), (dora, 0.0, 100)])
        assert none is None
        state = same(states)
        assert set(state.contributors) == {anna.id, bert.id, carl.id}
        updates = [(first + np.float32(step), n) for step, n in ((0.5, 100), (0.25, 50), (0.125, 25))]
        assert state.parameters.tobytes() == joined(first, 1.0, task, updates, 4)[0].tobytes()
        assert {"peer": "dora", "why": "the update holds NaN or infinity in dense1.weight"} in anna.told("peer.left")
        await until(lambda: dora.exchange.round == 1)
        newer = await dora.begin()
        assert newer is not None
        assert newer.parameters.tobytes() == state.parameters.tobytes()


async def certified_without_dora(c: Circle, step: float) -> JointState:
    """A round of four whose sum is over three, for dora has not trained when the others have had their time."""
    state = same(await c.share([(peer, step, 100) for peer in c.peers[:3]]))
    assert set(state.contributors) == {peer.id for peer in c.peers[:3]}
    await until(lambda: c.peers[3].exchange.round == state.round)
    return state


async def test_an_update_that_was_not_spent_is_measured_from_where_it_began(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    task = task_of(4)
    async with circle(tmp_path, 4, task) as c:
        dora = c.peers[3]
        await c.begin()
        one = await certified_without_dora(c, 0.25)
        assert dora.store.spent(task.id) == []
        for peer in c.peers[:3]:
            assert await peer.begin() is None  # it stands on this state already
        given = [(peer, 0.125, 100) for peer in c.peers[:3]]
        two = same(await c.share([*given, (dora, 1.0, 100)]))  # dora trained 1.0 from the state before
        bound = joined(np.zeros(D, np.float32), 1.0, task, [(one.parameters, 100)] * 3, 4)[1]
        updates = [(one.parameters + np.float32(0.125), 100)] * 3 + [(one.parameters + np.float32(1.0), 100)]
        assert two.parameters.tobytes() == joined(one.parameters, bound, task, updates, 4)[0].tobytes()
        assert dora.id in two.contributors


async def test_training_that_starts_after_the_base_moved_starts_from_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with circle(tmp_path, 4, task_of(4)) as c:
        dora = c.peers[3]
        await c.begin()
        state = await certified_without_dora(c, 0.25)
        newer = await dora.begin()
        assert newer is not None
        assert (newer.round, newer.contributors) == (1, state.contributors)
        assert newer.parameters.tobytes() == state.parameters.tobytes()
        assert await dora.begin() is None


async def test_training_that_ends_after_the_last_round_was_certified_gets_its_state(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    task = task_of(4)
    task = msgspec.structs.replace(task, round=msgspec.structs.replace(task.round, rounds=1))
    async with circle(tmp_path, 4, task) as c:
        dora = c.peers[3]
        await c.begin()
        state = await certified_without_dora(c, 0.25)
        last = await dora.share(1.0)  # nobody holds a round with it any more
        assert last is not None
        assert (last.round, last.parameters.tobytes()) == (1, state.parameters.tobytes())
        assert dora.told("round.shared") == []


async def test_an_update_that_was_spent_is_dropped_once_the_base_moves(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    first = np.zeros(D, np.float32)
    first[0] = -HUGE
    task = task_of(4)
    async with circle(tmp_path, 4, task, first) as c:
        anna, bert, carl, dora = c.peers
        await c.begin()
        anna.parameters[0] = bert.parameters[0] = HUGE  # two leave: the attempt is lost after dora has spent
        assert await c.share([(carl, 0.5, 100), (dora, 0.5, 100), (anna, 0.0, 1), (bert, 0.0, 1)]) == [None] * 4
        assert len(dora.store.spent(task.id, dora.exchange.base)) == 1
        for peer in (anna, bert):
            peer.parameters[0] = first[0]
        for peer in c.peers:
            assert await peer.begin() is None
        state = await certified_without_dora(c, 0.25)
        shared = len(dora.told("round.shared"))
        again = await dora.share(0.5)  # at once: nothing of it is offered
        assert again is not None
        assert again.parameters.tobytes() == state.parameters.tobytes()
        assert len(dora.told("round.shared")) == shared
        assert await dora.begin() is None


@pytest.mark.parametrize("retired", [False, True])
async def test_a_peer_that_accepts_late_hears_where_the_others_stand(
    autojump_clock: MockClock, tmp_path: Path, retired: bool
) -> None:
    """Its links are older than its run: what the others said when they came up went to nobody."""
    async with circle(tmp_path, 3, task_of(2), opened=False) as c:
        anna, bert, carl = c.peers
        await c.open(anna, bert)
        await c.begin(anna, bert)
        state = same(await c.share([(anna, 0.25, 100), (bert, 0.5, 100)]))
        if retired:
            anna.exchange.retire()
            bert.exchange.retire()
        await trio.sleep(60)
        await c.open(carl)
        await until(lambda: carl.exchange.round == 1, 1.0)
        assert carl.exchange.parameters.tobytes() == state.parameters.tobytes()
        assert carl.exchange.round_of(anna.id) == carl.exchange.round_of(bert.id) == 1


async def test_a_peer_that_accepts_again_hears_who_is_ready(autojump_clock: MockClock, tmp_path: Path) -> None:
    """After a run that failed, with the same links: the Adverts of the others were said before."""
    async with circle(tmp_path, 3, task_of(3)) as c:
        anna, bert, carl = c.peers
        for peer in c.peers:
            await peer.begin()
        carl.exchange.retire("it failed")
        await carl.stop()
        await trio.sleep(60)
        await c.open(carl)
        await carl.begin()
        await until(lambda: carl.exchange.status().ready >= {anna.id, bert.id, carl.id}, 1.0)


async def test_the_last_word_is_the_sum_of_the_weights() -> None:
    """What the tests here compute is what ring.py says, not a formula of theirs."""
    words = np.empty(3, np.uint32)
    ring.encode(np.ones(2, np.float32), np.zeros(2, np.float32), ring.Codec(3, 1.0), ring.weight_word(37, 100), words)
    assert words[-1] == round(65535 * 0.37)
