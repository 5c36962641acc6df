"""A peer's noise follows from the task and its number of rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest

from discod.privacy.accountant import OutOfRange, epsilon_of, sampled_gaussian
from discod.privacy.plan import Noise, plan_noise


@dataclass(frozen=True)
class Rule:
    unit: str = "record"
    epsilon: float = 0.0
    delta: float = 1e-5
    noise_multiplier: float = 0.0
    clip: float = 0.5


@dataclass(frozen=True)
class Task:
    privacy: Any
    batch_size: int = 128
    rounds: int = 80
    round_duration: int = 4


def test_a_task_without_noise_has_no_plan() -> None:
    assert plan_noise(Task(Rule("none", epsilon=3.0)), 479) is None


def test_a_noise_multiplier_is_taken_as_it_is() -> None:
    noise = plan_noise(Task(Rule(noise_multiplier=3.3, epsilon=1.0)), 479)
    assert noise == Noise(128 / 479, 3.3, 320, 1e-5, 0.5)
    assert noise.epsilon == pytest.approx(7.64, abs=0.005)
    assert noise.per_round(4) == sampled_gaussian(128 / 479, 3.3, 4)


def test_a_target_is_met_by_each_peer_with_its_own_noise() -> None:
    few, many = (plan_noise(Task(Rule(epsilon=2.5)), rows) for rows in (479, 2000))
    assert few is not None
    assert many is not None
    assert many.z < few.z
    for noise in (few, many):
        assert noise.epsilon == pytest.approx(2.5, abs=1e-3)


def test_with_fewer_rows_than_a_batch_every_row_is_in_every_step() -> None:
    noise = plan_noise(Task(Rule(noise_multiplier=20.0)), 100)
    assert noise is not None
    assert noise.q == 1.0


def test_overflow_leaves_the_guarantee_as_it_is() -> None:
    noise = Noise(0.2672, 1.8, 320, 1e-5, 1.0)
    assert noise.overflow == pytest.approx(1e-14 / 320)
    assert 15 < noise.epsilon < 18
    assert noise.epsilon == pytest.approx(epsilon_of(noise.per_round(320), 1e-5), abs=0.1)


def test_where_overflow_would_count_nothing_is_promised() -> None:
    assert epsilon_of(sampled_gaussian(0.3, 1.0, 320), 1e-5) > 21
    assert Noise(0.3, 1.0, 320, 1e-5, 1.0).epsilon == math.inf


def test_no_rows_are_refused() -> None:
    with pytest.raises(OutOfRange, match="no rows"):
        plan_noise(Task(Rule(noise_multiplier=1.0)), 0)
