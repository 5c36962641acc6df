"""Updates with noise of their own: its size, exact sums, and what is charged when, for a sum over whom."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from discod import ring
from discod.daemon.charging import Content
from discod.daemon.releasing import PeerCharging, charging_for, fresh_noise, noised_update
from discod.errors import BudgetExhausted, UserError
from discod.p2p.certificate import colluders_of, threshold_of
from discod.privacy.accountant import NOTHING, epsilon_of, gaussian
from discod.privacy.peers import PeerNoise, Portion, costs
from discod.store import Store
from discod.train.task import PrivacySpec, TaskSpec
from discod.train.vector import Vector
from tests.daemon.circle import D, Peer, circle, in_place, task_of
from tests.p2p.dealers import Dealers

CONTENT = Content(b"c" * 32, "/srv/scans.npz")
COUNT = 40_000
SIX = 6 / math.sqrt(2 * COUNT)  # of a standard deviation's relative error: beyond it with a chance below 1e-8
HUGE = np.float32(3e38)


def portion(n: int, z: float = 3.0, clip: float = 0.25, values: int = COUNT) -> Portion:
    t = threshold_of(n)
    return Portion(z, clip, values, n, t - colluders_of(n, t), colluders_of(n, t))


def encoded(p: Portion, local: Vector, *, noisy: bool = True, masks: Any = None) -> ring.Words:
    base, words = np.zeros_like(local), np.empty(local.size, np.uint32)
    shrink = ring.shrinking(local, base, p.clip)
    for chunk in range(p.peers):
        noise = fresh_noise(p) if noisy else None
        ring.encode_chunk(local, base, p, None, words, chunk, masks, shrink=shrink, noise=noise)
    return words


def values(p: Portion, words: ring.Words) -> np.ndarray[Any, np.dtype[np.float64]]:
    return words.view(np.int32) / p.scale


def norm(x: Any) -> float:
    return float(np.linalg.norm(np.asarray(x, np.float64)))


def deviation_is(found: float, expected: float) -> bool:
    return abs(found / expected - 1) <= SIX + 1e-3


@pytest.mark.parametrize("long", [0.1, 0.2499, 1.0, 1e6])
def test_clip_and_noise_are_what_the_task_says(long: float) -> None:
    p, random = portion(8), np.random.default_rng(1)
    x = random.normal(size=COUNT)
    local = (x * long / norm(x)).astype(np.float32)
    plain = values(p, encoded(p, local, noisy=False))
    assert norm(plain) == pytest.approx(min(long, 0.25), rel=1e-4)  # one norm over all chunks
    assert norm(plain) <= p.reach
    assert np.dot(plain, local) == pytest.approx(norm(plain) * norm(local), rel=1e-4)  # shorter, not another way
    noise = values(p, encoded(p, local)) - plain
    assert deviation_is(float(noise.std()), 3.0 * 0.25 / math.sqrt(3))
    assert abs(noise.mean()) < 6 * p.deviation / math.sqrt(COUNT)
    assert len(np.unique((noise * p.scale).astype(np.int64) & 7)) == 8  # every whole number, the low bits too


def test_wrong_noise_is_noticed() -> None:
    sigma, found = 3.0 * 0.25 / math.sqrt(3), portion(8).deviation
    assert deviation_is(found, sigma)
    for wrong in (found**2, found / 2, 3.0 * 0.25 / math.sqrt(8), 3.0 * 0.25 / math.sqrt(6), 3.0 * 0.25, 3.0):
        assert not deviation_is(wrong, sigma)


def test_two_updates_have_two_noises() -> None:
    p, local = portion(3), np.zeros(COUNT, np.float32)
    one, other = encoded(p, local), encoded(p, local)
    assert abs(np.corrcoef(values(p, one), values(p, other))[0, 1]) < 6 / math.sqrt(COUNT)


def test_an_update_for_a_node_carries_the_full_noise_on_the_grid() -> None:
    found = noised_update(np.zeros(COUNT, np.float32), np.zeros(COUNT, np.float32), PeerNoise(3.0, 0.25, 9, 1e-5))
    assert found.dtype == np.float32
    assert deviation_is(float(found.std()), 0.75)


@given(peers=st.integers(3, 16), d=st.integers(1, 300), z=st.sampled_from([0.1, 3.0, 100.0]), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_a_secure_sum_of_noised_words_is_exact(peers: int, d: int, z: float, seed: int) -> None:
    """Masked and opened it is the sum of the noised words, within an int32; without noise that of the clipped ones."""
    dealers, random = Dealers(peers, seed), np.random.default_rng(seed)
    started = dealers.begin(sorted(dealers.roster))
    included, p = started[: dealers.threshold], portion(peers, z, 1.0, d)
    kept: list[list[int]] = []
    masked = []
    for peer in included:
        words = encoded(p, random.normal(size=d).astype(np.float32))
        kept.append(words.view(np.int32).tolist())
        ring.unmask(words, 0, dealers.sums[peer].masks())
        masked.append(words)
    total = np.empty(d, np.uint32)
    side = dealers.show(started[0], included, included)
    ring.combine(masked, total, 0, side.opening(included))
    assert total.view(np.int32).tolist() == [sum(column) for column in zip(*kept, strict=True)]
    assert ring.check_bound(total, p, len(included))
    total[0] = np.uint32(p.limit(len(included)) + 1)
    assert not ring.check_bound(total, p, len(included))


# -- what is charged


def peer_task(n: int, aggregator: Any = "secure", z: float = 1.0, **rule: Any) -> TaskSpec:
    return msgspec.structs.replace(task_of(n, aggregator), privacy=PrivacySpec("peer", noise_multiplier=z, **rule))


def epsilon(ratios: list[float]) -> float:
    """Of releases to records, which cost most: with half the noise."""
    curves = [gaussian(ratio / 2) for ratio in ratios]
    return epsilon_of(tuple(map(math.fsum, zip(*curves, strict=True))), 1e-5)


def charge_for(peer: Peer) -> Store:
    shelf: Any = peer.exchange._shop._shelf
    shelf._charging = PeerCharging(peer.task)
    shelf._charging.begin(CONTENT, [], 0, at_base=True)
    peer.store.raise_budget(CONTENT.hash, CONTENT.path, 20.0, "a test", 0.0)
    return peer.store


def noting(seen: list[float], store: Store, certify: Callable[..., None], *args: Any) -> None:
    """Certify, with a look at what is charged before."""
    seen.append(store.budget(CONTENT.hash).spent)
    certify(*args)


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio.to_thread, "run_sync", in_place)


@pytest.mark.usefixtures("no_threads")
@pytest.mark.parametrize("aggregator", ["secure", "mean"])
async def test_peers_reach_a_model_and_pay_for_whom_the_certificate_shows(
    aggregator: str, autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Of 4: t = 3, n_C = 1, h = 2. What all four say is worth 3 of h = 2; `mean` is charged in full."""
    task = peer_task(4, aggregator, z=4.0, clip=1.0)
    async with circle(tmp_path, 4, task) as c:
        stores = [charge_for(peer) for peer in c.peers]
        before: list[float] = []
        for peer, store in zip(c.peers, stores, strict=True):
            shelf: Any = peer.exchange._shop._shelf
            shelf.certify = partial(noting, before, store, shelf.certify)
        await c.begin()
        states = await c.share([(peer, 0.5, 100) for peer in c.peers])
        assert None not in states
        assert len({state.parameters.tobytes() for state in states if state is not None}) == 1
        assert before == pytest.approx([epsilon([4.0])] * 4)  # on disk before anything leaves, for the worst case
        ratio = 4.0 * math.sqrt(3 / 2) if aggregator == "secure" else 4.0
        for peer, store in zip(c.peers, stores, strict=True):
            budget, charging = store.budget(CONTENT.hash), peer.exchange._shop._shelf._charging
            assert budget.spent == pytest.approx(epsilon([ratio]))
            assert charging.epsilon == pytest.approx(epsilon_of(gaussian(ratio), 1e-5))
            assert budget.shares[0].peer == pytest.approx(gaussian(ratio))


@pytest.mark.usefixtures("no_threads")
async def test_with_little_noise_the_model_is_that_of_the_clipped_updates(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with circle(tmp_path, 4, peer_task(4, z=0.1, clip=1.0)) as c:
        await c.begin()
        state = (await c.share([(peer, 0.5, 100) for peer in c.peers]))[0]
        assert state is not None
        expected = 1.0 / math.sqrt(D)  # 0.5 in each of 32 is longer than 1
        assert np.abs(state.parameters - expected).max() < 8 * 0.1 / math.sqrt(2) * math.sqrt(4) / 4
        assert state.parameters.std() > 0


@pytest.mark.usefixtures("no_threads")
async def test_a_lost_round_stays_charged_for_the_worst_case(autojump_clock: MockClock, tmp_path: Path) -> None:
    first = np.zeros(D, np.float32)
    first[0] = -HUGE
    async with circle(tmp_path, 4, peer_task(4, z=6.0), first) as c:
        anna, bert, carl, dora = c.peers
        store = charge_for(dora)
        await c.begin()
        anna.parameters[0] = bert.parameters[0] = HUGE  # two leave: the attempt is lost after dora has spent
        assert await c.share([(carl, 0.5, 100), (dora, 0.5, 100), (anna, 0.0, 1), (bert, 0.0, 1)]) == [None] * 4
        assert store.budget(CONTENT.hash).spent == pytest.approx(epsilon([6.0]))
        for peer in (anna, bert):
            peer.parameters[0] = first[0]
        for peer in c.peers:
            assert await peer.begin() is None
        dora.exchange.batches = 12
        assert None not in await c.share([(peer, 0.25, 100) for peer in c.peers])
        assert store.budget(CONTENT.hash).spent == pytest.approx(epsilon([6.0, 6.0 * math.sqrt(3 / 2)]))


def test_who_is_not_in_u_has_paid_nothing_and_lost_ones_stay() -> None:
    made, p = PeerCharging(peer_task(8, z=10.0)), portion(8, 10.0)
    made.begin(CONTENT, [], 0, at_base=True)
    for _ in range(2):
        cost = made.charge(4)
        assert cost is not None
        assert (cost.record, cost.peer) == costs(10.0)
        made.paid(4)
    change = made.amend(p, 0)
    assert change is not None
    assert (change.was.peer, change.now.peer) == (gaussian(10.0), NOTHING)
    assert made.epsilon == pytest.approx(epsilon_of(gaussian(10.0), 1e-5))
    assert made.covers(4)
    made._sent = made._plan.releases
    assert not made.covers(4)
    made.begin(None, [], 0, at_base=True)
    assert made.charge(4) is None  # a bundled sample


@pytest.mark.usefixtures("no_threads")
async def test_nothing_leaves_without_budget(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with circle(tmp_path, 3, peer_task(3, z=0.1)) as c:
        anna = c.peers[0]
        charge_for(anna)
        await c.begin()
        caught: list[UserError] = []

        async def exhausted() -> None:
            with pytest.raises(BudgetExhausted) as found:
                await anna.share(0.25)
            caught.append(found.value)

        with trio.move_on_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(exhausted)
                for peer in c.peers[1:]:
                    nursery.start_soon(peer.share, 0.25)
        assert [int(error.exit) for error in caught] == [13]
        assert anna.store.spent(anna.task.id) == []


def test_charging_is_that_of_the_unit() -> None:
    assert isinstance(charging_for(peer_task(3)), PeerCharging)
    assert not isinstance(charging_for(task_of(3)), PeerCharging)
