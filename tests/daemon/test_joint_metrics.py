"""Joint metrics in rounds of the real exchange: exact, of whose updates are summed, once, and only if asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pytest
import trio
from trio.testing import MockClock

from discod.daemon.room import Room
from discod.train.rounds import Measured
from discod.train.task import PrivacySpec, TaskSpec
from discod.train.totals import Totals
from tests.daemon.circle import D, circle, in_place, joined, task_of, until
from tests.daemon.test_exchange import same, steps

SAID = (Totals(12.5, 70, 100), Totals(4.25, 3, 9), Totals(900.0, 512, 1024), Totals(3.0, 5, 6))
SAMPLES = (100, 37, 5, 80)


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio.to_thread, "run_sync", in_place)


def asking(task: TaskSpec) -> TaskSpec:
    return msgspec.structs.replace(task, privacy=PrivacySpec(metrics="joint"))


@pytest.mark.parametrize("aggregator", ["mean", "secure"])
async def test_sums_are_those_of_an_oracle_and_the_state_is_as_without(
    autojump_clock: MockClock, tmp_path: Path, aggregator: Literal["mean", "secure"]
) -> None:
    task, base = asking(task_of(3, aggregator)), np.zeros(D, np.float32)
    async with circle(tmp_path, 3, task) as c:
        for peer, said in zip(c.peers, SAID, strict=False):
            peer.exchange.measured = Measured(peer.exchange.base, said)
        await c.begin()
        state = same(await c.share(list(zip(c.peers, steps(1), SAMPLES, strict=False))))
    updates = list(zip(steps(1), SAMPLES, strict=False))
    assert state.parameters.tobytes() == joined(base, 1.0, task, updates, 3)[0].tobytes()
    assert state.before == Totals(12.5 + 4.25 + 900.0, 70 + 3 + 512, 100 + 9 + 1024)


@pytest.mark.parametrize("aggregator", ["mean", "secure"])
async def test_who_drops_out_of_the_sum_is_not_in_the_metrics(
    autojump_clock: MockClock, tmp_path: Path, aggregator: Literal["mean", "secure"]
) -> None:
    first = np.zeros(D, np.float32)
    first[0] = -3e38
    task = asking(task_of(4, aggregator))
    async with circle(tmp_path, 4, task, first) as c:
        anna, bert, carl, dora = c.peers
        for peer, said in zip(c.peers, SAID, strict=True):
            peer.exchange.measured = Measured(peer.exchange.base, said)
        await c.begin()
        dora.parameters[0] = 3e38  # no finite update: it leaves the round
        *states, none = await c.share([(anna, 0.5, 100), (bert, 0.25, 50), (carl, 0.125, 25), (dora, 0.0, 100)])
        assert none is None
        state = same(states)
        assert set(state.contributors) == {anna.id, bert.id, carl.id}
        assert state.before == Totals(916.75, 585, 1133)
        await until(lambda: dora.exchange.round == 1)


async def test_a_measurement_is_of_one_state_and_sent_once(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with circle(tmp_path, 3, asking(task_of(3))) as c:
        anna, bert, carl = c.peers
        first = anna.exchange.base
        anna.exchange.measured = Measured(first, SAID[0])
        bert.exchange.measured = Measured(bytes(32), SAID[1])  # of another state
        await c.begin()
        assert same(await c.share([(peer, 0.25, 100) for peer in c.peers])).before == SAID[0]
        carl.exchange.measured = Measured(first, SAID[2])  # late
        await c.begin()
        assert same(await c.share([(peer, 0.25, 100) for peer in c.peers])).before is None
        shop = anna.exchange._shop
        shop.measured = Measured(shop.state, SAID[0])
        assert shop._metrics().any()
        shop._told_of = shop.state  # a round that was lost after the update was spent
        assert not shop._metrics().any()


async def test_nothing_is_sent_by_default(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: set[int] = set()
    made = Room.__init__

    def seen(self: Room, words: int, codec: object) -> None:
        sizes.add(words)
        made(self, words, codec)  # type: ignore[arg-type]  # a Codec, which mypy is told of in room.py

    monkeypatch.setattr(Room, "__init__", seen)
    async with circle(tmp_path, 3, task_of(3)) as c:
        for peer in c.peers:
            peer.exchange.measured = Measured(peer.exchange.base, SAID[0])
        await c.begin()
        assert same(await c.share([(peer, 0.25, 100) for peer in c.peers])).before is None
    assert sizes == {D + 1}
