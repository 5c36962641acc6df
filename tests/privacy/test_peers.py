"""Peer-level noise: its size on the grid, and what a release costs with |U| in the sum and n_C that know theirs."""

from __future__ import annotations

import math

import pytest

from discod.p2p.certificate import colluders_of, threshold_of
from discod.privacy.accountant import OutOfRange, epsilon_of, gaussian
from discod.privacy.peers import LEAST_STEPS, PeerNoise, Portion, costs, noise_to_signal, plan_peer_noise, sure_of
from tests.privacy.test_plan import Rule, Task


def portion(n: int, z: float = 10.0, values: int = 1000, clip: float = 1.0) -> Portion:
    t = threshold_of(n)
    return Portion(z, clip, values, n, t - colluders_of(n, t), colluders_of(n, t))


def test_check_values_of_the_accountant() -> None:
    assert PeerNoise(10.0, 1.0, 100, 1e-5).epsilon == pytest.approx(4.73, abs=0.005)
    for epsilon, z in ((1.0, 40.5), (2.0, 21.5), (4.0, 11.6), (8.0, 6.4)):
        noise = plan_peer_noise(Task(Rule("peer", epsilon=epsilon), rounds=100))
        assert noise is not None
        assert noise.z == pytest.approx(z, abs=0.06)
        assert noise.epsilon <= epsilon
    assert plan_peer_noise(Task(Rule("record", epsilon=3.0))) is None


def test_noise_outside_what_the_grid_holds_is_refused() -> None:
    for rule in (Rule("peer", noise_multiplier=0.05), Rule("peer", epsilon=0.01)):
        with pytest.raises(OutOfRange, match="not possible for whole updates"):
            plan_peer_noise(Task(rule, rounds=1000))


def test_a_sum_of_t_costs_what_the_task_says_and_colluders_noise_does_not_count() -> None:
    p = portion(8)  # t = 6, n_C = 3, h = 3
    assert (p.least, p.colluders, p.sure) == (6, 3, 3)
    assert p.ratio(6) == pytest.approx(10.0)
    assert p.ratio(8) == pytest.approx(10.0 * math.sqrt(5 / 3))
    assert epsilon_of(gaussian(p.ratio(6), 100), 1e-5) == pytest.approx(4.73, abs=0.005)
    with_all = math.sqrt(8) * p.deviation / p.reach  # the mistake: |U| in place of |U| - n_C
    assert epsilon_of(gaussian(with_all, 100), 1e-5) == pytest.approx(2.71, abs=0.02)
    assert p.ratio(8) < with_all
    alone = Portion(10.0, 1.0, 1000, 8)
    assert alone.ratio(1) == alone.ratio(8) == pytest.approx(10.0)


def test_noise_is_in_units_of_the_clip_and_of_nothing_squared() -> None:
    p = portion(8, z=3.0, clip=0.25)
    assert p.deviation == pytest.approx(3.0 * 0.25 / math.sqrt(3), rel=1e-3)
    assert p.deviation >= 3.0 * 0.25 / math.sqrt(3)
    assert p.reach == 0.25 + math.sqrt(1000) / (2 * p.scale)


@pytest.mark.parametrize("z", [0.1, 1.0, 10.0, 1000.0])
@pytest.mark.parametrize("clip", [0.3, 1.0, 7.0])
def test_the_grid_is_the_finest_that_an_int32_has_room_for(z: float, clip: float) -> None:
    for n in (*range(3, 129), 1):
        p = portion(n, z, 10_000, clip) if n > 1 else Portion(z, clip, 10_000, 1)
        needed = n * clip * p.scale + 10 * math.sqrt(n) * p.steps
        assert 2.0**29 < needed < 2**31
        assert math.log2(p.scale).is_integer()
        assert p.steps >= LEAST_STEPS
        assert p.limit(n) < 2**31 + n + 1


def test_a_row_may_turn_an_update_round_so_it_costs_as_with_half_the_noise() -> None:
    record, peer = costs(10.0, 3)
    assert peer == gaussian(10.0, 3)
    assert record == gaussian(5.0, 3) != peer


def test_ratio_of_noise_to_signal() -> None:
    noise = plan_peer_noise(Task(Rule("peer", epsilon=4.0), rounds=100))
    assert noise is not None
    assert noise_to_signal(noise.z, 10**6, 100, 1) == pytest.approx(1160, rel=0.01)
    assert noise_to_signal(2.0, 10_000, 16, 4) == 2 * 100 * 2 / 16
    for n in range(3, 129):
        t = threshold_of(n)
        assert sure_of(n) == t - colluders_of(n, t) >= 2
