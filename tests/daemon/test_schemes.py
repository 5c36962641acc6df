"""What a scheme decides: the exchange, what an update weighs, how many steps its noise is planned for."""

from __future__ import annotations

import msgspec
import pytest

from discod.daemon.charging import Charging
from discod.daemon.exchange import DecentralizedExchange
from discod.daemon.federated import FederatedExchange
from discod.daemon.schemes import make_exchange
from discod.train.task import PrivacySpec, TaskSpec
from tests.daemon.circle import task_of
from tests.daemon.guild import hosted_task


def test_steps_count_from_the_last_charge() -> None:
    private = msgspec.structs.replace(hosted_task(2), privacy=PrivacySpec("record", epsilon=2.0))
    charging = Charging(private)
    charging.begin(None, [], 0, at_base=True)
    assert charging.covers(private.steps)
    assert not charging.covers(private.steps + 1)
    charging.start_anew(private.round_duration)  # what was refused is given up, and not counted
    assert charging.covers(private.steps + private.round_duration)
    assert Charging(hosted_task(2)).covers(10**9)


def test_scheme_decides_which_exchange_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[TaskSpec] = []
    for kind in (DecentralizedExchange, FederatedExchange):
        monkeypatch.setattr(kind, "__init__", lambda self, *, task: made.append(task))
    assert isinstance(make_exchange(task=task_of(2)), DecentralizedExchange)
    assert isinstance(make_exchange(task=hosted_task()), FederatedExchange)


def test_private_task_weighs_all_alike() -> None:
    private = msgspec.structs.replace(hosted_task(2), privacy=PrivacySpec("record", epsilon=2.0))
    assert private.weighting == "uniform"
