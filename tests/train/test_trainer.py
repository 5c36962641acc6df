from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest
import trio

from discod.errors import BadData
from discod.train.informant import Informant
from discod.train.rounds import Exchange, JointState, LocalExchange
from discod.train.task import DataSpec, ModelSpec, PrivacySpec, RoundSpec, TaskSpec
from discod.train.trainer import RoundReport, TrainingFailed, run_training
from discod.train.vector import Vector
from discod.train.worker import WorkerDied
from discod.train.worker_messages import Metrics, Progress, Split
from tests.train.exchanges import check_exchange

D = 5
TASK = TaskSpec(
    name="t",
    data=DataSpec(classes=2, shape=(3,)),
    model=ModelSpec("logreg"),
    round=RoundSpec(rounds=3, round_duration=10),
)
PRIVATE = msgspec.structs.replace(TASK, privacy=PrivacySpec("record", epsilon=3.0))
A, B = b"a" * 32, b"b" * 32


@dataclass
class FakeWorker:
    """Adds 1 to every parameter in each batch of 4 samples; dies when the batch it was told about comes."""

    farm: Farm
    batch: int
    parameters: Vector

    async def train(self, batches: int) -> Progress:
        await trio.sleep(batches * self.farm.seconds_per_batch)
        self._die_in(range(self.batch + 1, self.batch + batches + 1))
        self.batch += batches
        self.parameters += np.float32(batches)
        self.farm.slices.append(batches)
        if self.batch >= self.farm.diverges_at:
            self.parameters[2] = np.nan
        return Progress(
            batches, 4 * batches, loss=1.0 / self.batch, accuracy=0.5, seconds=self.farm.seconds_per_batch * batches
        )

    async def evaluate(self, split: Split) -> Metrics:
        assert split == "validation"
        self.farm.evaluations += 1
        await trio.sleep(0.1)
        if self.farm.evaluations in self.farm.dies_in_evaluation:
            raise WorkerDied(-9, "")
        return Metrics(loss=0.1, accuracy=float(self.parameters[0]), count=self.farm.validation_rows)

    def _die_in(self, batches: range) -> None:
        for batch in batches:
            if batch in self.farm.dies_at:
                self.farm.dies_at.remove(batch)
                self.parameters += np.float32(0.5)  # it had begun the slice
                raise WorkerDied(-9, "")


@dataclass
class Farm:
    """Starts fake workers and keeps what they did."""

    dies_at: list[int] = field(default_factory=list)
    dies_in_evaluation: tuple[int, ...] = ()
    dies_at_start: int = 0
    diverges_at: float = np.inf
    seconds_per_batch: float = 0.01
    validation_rows: int = 7
    started_at: list[int] = field(default_factory=list)
    slices: list[int] = field(default_factory=list)
    evaluations: int = 0

    @asynccontextmanager
    async def __call__(self, batch: int, parameters: Vector) -> AsyncIterator[FakeWorker]:
        self.started_at.append(batch)
        if len(self.started_at) <= self.dies_at_start:
            raise WorkerDied(1, "out of memory")
        yield FakeWorker(self, batch, parameters.copy())


@dataclass
class FakeExchange:
    """Plays back joint states; remembers what it was given."""

    answers: list[JointState | None]
    calls: list[str] = field(default_factory=list)
    given: list[tuple[list[float], int]] = field(default_factory=list)

    async def round_begin(self) -> None:
        self.calls.append("begin")

    async def round_end(self, local: Vector, weight: int) -> JointState | None:
        self.calls.append("end")
        self.given.append((local.tolist(), weight))
        await trio.sleep(1)
        return self.answers.pop(0)


def joint(round: int, value: float) -> JointState:
    return JointState(round, np.full(D, value, np.float32), (A, B))


async def train(
    farm: Farm, exchange: Exchange, task: TaskSpec = TASK, **more: object
) -> tuple[Vector, Informant, list[RoundReport]]:
    informant = Informant(task.name, task.rounds, task.round_duration)
    reports: list[RoundReport] = []

    async def on_round(report: RoundReport) -> None:
        reports.append(report)

    start = np.zeros(D, np.float32)
    final = await run_training(task, farm, exchange, informant, parameters=start, on_round=on_round, **more)  # type: ignore[arg-type]
    return final, informant, reports


async def test_alone_rounds_are_counted_in_batches(autojump_clock: trio.testing.MockClock) -> None:
    farm = Farm()
    final, informant, reports = await train(farm, LocalExchange())
    assert final.tolist() == [30] * D
    assert [(report.round, report.batch, report.joint) for report in reports] == [
        (1, 10, None),
        (2, 20, None),
        (3, 30, None),
    ]
    assert informant.snapshot().activity == "done"
    assert farm.evaluations == 3  # nothing changes between before and after


async def test_training_goes_on_from_the_joint_state(autojump_clock: trio.testing.MockClock) -> None:
    exchange = FakeExchange([joint(1, 100), joint(2, 200), joint(3, 300)])
    final, informant, _ = await train(Farm(), exchange)
    assert final.tolist() == [300] * D
    assert [local[0] for local, _ in exchange.given] == [10, 110, 210]
    assert [weight for _, weight in exchange.given] == [40, 40, 40]
    assert exchange.calls == ["begin", "end"] * 3
    seen = [(point.accuracy_before, point.accuracy, point.joint) for point in informant.snapshot().validation]
    assert seen == [(10, 100, True), (110, 200, True), (210, 300, True)]
    assert informant.snapshot().peers_current == 2


async def test_a_lost_round_keeps_the_current_parameters_and_their_weight(
    autojump_clock: trio.testing.MockClock,
) -> None:
    exchange = FakeExchange([None, joint(1, 100), joint(3, 300)])
    final, informant, reports = await train(Farm(), exchange)
    assert exchange.given == [([10.0] * D, 40), ([20.0] * D, 80), ([110.0] * D, 40)]
    assert final.tolist() == [300] * D
    assert [report.round for report in reports] == [0, 1, 3]
    assert [point.samples for point in informant.snapshot().training] == [40, 40, 40]


async def test_a_round_caught_up_with_ends_the_task(autojump_clock: trio.testing.MockClock) -> None:
    exchange = FakeExchange([joint(3, 9)])
    final, _, reports = await train(Farm(), exchange, round=1)
    assert (final[0], len(reports)) == (9, 1)


async def test_a_finished_task_starts_no_worker() -> None:
    farm = Farm()
    final, _, _ = await train(farm, FakeExchange([]), round=3)
    assert (final.tolist(), farm.started_at) == ([0] * D, [])


async def test_slices_adapt_to_the_speed_and_end_with_the_round(autojump_clock: trio.testing.MockClock) -> None:
    farm = Farm(seconds_per_batch=0.1)
    await train(farm, LocalExchange())
    assert farm.slices == [1, 3, 3, 3] + 2 * [3, 3, 3, 1]
    slow = Farm(seconds_per_batch=2.0)
    await train(slow, LocalExchange())
    assert slow.slices == [1] * 30


async def test_a_restart_in_the_middle_of_a_round_trains_the_rest(autojump_clock: trio.testing.MockClock) -> None:
    exchange = FakeExchange([joint(3, 300)])
    farm = Farm()
    await train(farm, exchange, batch=27, round=2)
    assert farm.started_at == [27]
    assert exchange.given == [([3.0] * D, 12)]


async def test_a_killed_worker_is_replaced_and_the_round_kept(autojump_clock: trio.testing.MockClock) -> None:
    exchange = FakeExchange([joint(1, 100), joint(2, 200), joint(3, 300)])
    farm = Farm(dies_at=[5])
    _, informant, _ = await train(farm, exchange)
    assert farm.started_at == [0, 1]
    assert exchange.given[0] == ([10.5] * D, 40)  # what the dead worker had begun is kept, no batch is missing
    assert exchange.calls == ["begin", "end"] * 3
    assert informant.snapshot().worker_restarts == 1
    assert informant.snapshot().messages == ("worker killed: restarted, round kept",)


@pytest.mark.parametrize("large_floats", [2, 1 << 20])
async def test_with_noise_the_steps_of_a_slice_that_nobody_counted_are_undone(
    large_floats: int, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """They would be released, but not paid for."""
    monkeypatch.setattr("discod.train.trainer.LARGE_FLOATS", large_floats)
    exchange = FakeExchange([joint(1, 100), joint(2, 200), joint(3, 300)])
    farm = Farm(dies_at=[5, 18])
    await train(farm, exchange, PRIVATE)
    assert farm.started_at == [0, 1, 10]
    assert [local for local, _ in exchange.given] == [[10.0] * D, [110.0] * D, [210.0] * D]


async def test_with_noise_the_weight_says_nothing_about_the_rows(autojump_clock: trio.testing.MockClock) -> None:
    exchange = FakeExchange([None, joint(1, 100), joint(3, 300)])
    await train(Farm(), exchange, PRIVATE)
    assert [weight for _, weight in exchange.given] == [1, 1, 1]


@pytest.mark.parametrize("evaluation", [1, 2])
async def test_a_worker_killed_around_the_exchange_does_not_share_twice(
    evaluation: int, autojump_clock: trio.testing.MockClock
) -> None:
    exchange = FakeExchange([joint(1, 100), joint(2, 200), joint(3, 300)])
    farm = Farm(dies_in_evaluation=(evaluation,))
    final, informant, _ = await train(farm, exchange)
    assert (final[0], farm.started_at) == (300, [0, 10])
    assert exchange.calls == ["begin", "end"] * 3
    assert [local[0] for local, _ in exchange.given] == [10, 110, 210]
    assert [point.accuracy for point in informant.snapshot().validation] == [100, 200, 300]


async def test_a_worker_that_dies_again_and_again_ends_the_run(autojump_clock: trio.testing.MockClock) -> None:
    farm = Farm(dies_at_start=9)
    with pytest.raises(TrainingFailed, match=r"3 times in a row.*out of memory"):
        await train(farm, LocalExchange())
    assert farm.started_at == [0, 0, 0]
    spread = Farm(dies_at=[2, 9, 15, 22, 28])
    final, _, _ = await train(spread, LocalExchange())
    assert final.tolist() == [32.5] * D


async def test_diverged_parameters_never_leave(autojump_clock: trio.testing.MockClock) -> None:
    exchange = FakeExchange([])
    with pytest.raises(TrainingFailed, match="diverged: after batch 10") as caught:
        await train(Farm(diverges_at=4), exchange)
    assert "learning_rate" in caught.value.hint
    assert exchange.given == []


async def test_an_error_of_the_exchange_comes_out_as_itself(autojump_clock: trio.testing.MockClock) -> None:
    class Refusing(FakeExchange):
        async def round_end(self, local: Vector, weight: int) -> JointState | None:
            raise BadData("no", "try")

    with pytest.raises(BadData):
        await train(Farm(), Refusing([]))


async def test_measuring_before_does_not_delay_the_exchange(autojump_clock: trio.testing.MockClock) -> None:
    started = trio.current_time()
    one_round = msgspec.structs.replace(TASK, round=RoundSpec(rounds=1, round_duration=10))
    await train(Farm(), FakeExchange([joint(1, 1)]), one_round)
    assert trio.current_time() - started == pytest.approx(10 * 0.01 + 1 + 0.1)


async def test_without_validation_rows_there_is_no_validation_point(autojump_clock: trio.testing.MockClock) -> None:
    _, informant, reports = await train(Farm(validation_rows=0), LocalExchange())
    assert informant.snapshot().validation == ()
    assert [report.validation for report in reports] == [None] * 3


async def test_long_vectors_are_copied_too(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr("discod.train.trainer.LARGE_FLOATS", 2)
    final, _, _ = await train(Farm(), FakeExchange([joint(1, 100), joint(3, 300)]))
    assert final.tolist() == [300] * D


@pytest.mark.parametrize("make", [LocalExchange])
async def test_every_exchange_keeps_the_contract(make: type[LocalExchange]) -> None:
    assert await check_exchange(make(), D) == [None, None, None]
