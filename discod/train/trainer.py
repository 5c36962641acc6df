"""The trainer: trains a round, hands the parameters to an exchange, goes on from what comes back, until all is done.

    worker                        trainer                         exchange
                                    -> round_begin()                adverts go out; a newer state may come back
      <- train(slice) ... -> Progress                               (until the round's last batch)
      <- evaluate("validation")     -> round_end(parameters, weight)  at the same time
                                    <- JointState or None
      parameters := joint state
      <- evaluate("validation")     -> informant, on_round

The exchange knows what scheme the task has; the trainer does not. None means that no joint state came: alone always,
with others when a round was lost. Training then goes on from the current parameters, never from stale ones, and the
samples seen count towards the next round's weight.

A worker may die. Another one is started with the parameters and the batch counter of the first, and the round goes on;
the batches of the slice in which it died may be trained again (under DP from where the slice began). A worker that dies
DEATHS_IN_A_ROW times without finishing anything ends the run.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import numpy as np
import trio

from discod.errors import Exit, UserError
from discod.train.informant import Informant, TrainingPoint, ValidationPoint
from discod.train.layers import layout
from discod.train.rounds import Exchange, JointState, LocalExchange, RoundTracker
from discod.train.task import TaskSpec
from discod.train.vector import Vector, not_finite
from discod.train.worker import WorkerDied
from discod.train.worker_messages import Metrics, Progress, Split

__all__ = ["Exchange", "JointState", "LocalExchange", "RoundReport", "RoundTracker", "TrainingFailed", "run_training"]

SLICE_SECONDS = 0.3  # how long training may stay silent
SLICE_GROWTH = 8  # a slice is at most so many times longer than the one before
DEATHS_IN_A_ROW = 3
LARGE_FLOATS = 1 << 20  # longer vectors are copied and summed in a thread


class TrainingFailed(UserError):
    """Training cannot go on: the parameters are no numbers any more, or the worker dies again and again."""

    code, exit = "training-failed", Exit.FAILED


class Worker(Protocol):
    """What the trainer needs of a worker: its parameters (d,), and two things it does. Raises: WorkerDied."""

    @property
    def parameters(self) -> Vector: ...

    async def train(self, batches: int) -> Progress: ...

    async def evaluate(self, split: Split) -> Metrics: ...


@dataclass(frozen=True)
class RoundReport:
    """What one round did. `round` joint rounds are done (alone: rounds trained), `batch` batches trained in all.

    `parameters` (d,) are the worker's own memory: whoever keeps them copies them before `on_round` returns.
    """

    round: int
    batch: int
    joint: JointState | None
    parameters: Vector
    training: TrainingPoint
    validation: ValidationPoint | None
    rows: int = 0  # that were measured on


StartWorker = Callable[[int, Vector], AbstractAsyncContextManager[Worker]]
OnRound = Callable[[RoundReport], Awaitable[None]]


async def run_training(
    task: TaskSpec,
    start_worker: StartWorker,
    exchange: Exchange,
    informant: Informant,
    *,
    parameters: Vector,
    batch: int = 0,
    round: int = 0,
    on_round: OnRound | None = None,
) -> Vector:
    """Train `task` from `parameters` (d,), `batch` batches and `round` joint rounds on; returns the final ones (d,).

    `start_worker(batch, parameters)` opens a worker that goes on from there. Ends when the task's rounds are done.
    Raises: TrainingFailed, and what the worker or the exchange raise. Cancellation stops the worker; what `on_round`
    saw is all that is kept.
    """
    run = _Run(task, exchange, informant, RoundTracker(task.round_duration, batch), round, parameters, on_round)
    while not run.done:
        await run.with_a_worker(start_worker)
    informant.does("done")
    assert run.parameters is not None, "no worker holds them any more"
    return run.parameters


class _Phase(Enum):
    STARTING = "starting"
    TRAINING = "training"
    SHARING = "sharing"
    MEASURING = "measuring"


class _Totals:
    """Sums over the slices of a round: loss and accuracy weighted by samples."""

    def __init__(self) -> None:
        self.samples = 0
        self._loss = self._accuracy = 0.0

    def add(self, progress: Progress) -> None:
        self.samples += progress.samples
        self._loss += progress.loss * progress.samples
        self._accuracy += progress.accuracy * progress.samples

    @property
    def loss(self) -> float:
        return self._loss / max(1, self.samples)

    @property
    def accuracy(self) -> float:
        return self._accuracy / max(1, self.samples)


class _Run:
    """Where a run stands. It outlives workers: the phase says what is left to do of the round under way."""

    def __init__(
        self,
        task: TaskSpec,
        exchange: Exchange,
        informant: Informant,
        tracker: RoundTracker,
        round: int,
        parameters: Vector,
        on_round: OnRound | None,
    ) -> None:
        self.task, self.exchange, self.informant, self.tracker = task, exchange, informant, tracker
        self.round, self.on_round = round, on_round
        self.parameters: Vector | None = parameters  # while no worker holds them: a vector can be large
        self.phase = _Phase.STARTING
        self.totals = _Totals()
        self.weight = 0  # samples since the last joint state
        self.slice_batches = 1
        self.before: Metrics | None = None
        self.joint: JointState | None = None
        self.deaths = 0

    @property
    def done(self) -> bool:
        return self.round >= self.task.rounds

    async def with_a_worker(self, start_worker: StartWorker) -> None:
        """Rounds until the task is done or the worker dies."""
        assert self.parameters is not None, "another worker holds them"
        death: WorkerDied | None = None
        try:
            async with start_worker(self.tracker.batch, self.parameters) as worker:
                self.parameters = None
                try:
                    await self._rounds(worker)
                except WorkerDied as error:
                    death = error
                self.parameters = worker.parameters.copy()
        except WorkerDied as error:
            death = error
        if death is not None:
            self._survive(death)

    def _survive(self, death: WorkerDied) -> None:
        self.deaths += 1
        if self.deaths >= DEATHS_IN_A_ROW:
            why = f"the training process died {self.deaths} times in a row; {death}"
            raise TrainingFailed(why, "look for a lack of memory; try a smaller batch_size") from death
        self.informant.worker_restarted()

    async def _rounds(self, worker: Worker) -> None:
        while not self.done:
            await self._STEPS[self.phase](self, worker)

    async def _start(self, worker: Worker) -> None:
        self.informant.does("waiting")
        if (newer := await self.exchange.round_begin()) is not None:
            self.round, self.weight = newer.round, 0
            await _copy(worker.parameters, newer.parameters)
        self.totals, self.before, self.joint = _Totals(), None, None
        self.informant.does("training")
        self.phase = _Phase.TRAINING

    async def _train(self, worker: Worker) -> None:
        """One slice; the last one of a round ends with the round."""
        progress = await self._slice(worker, min(self.slice_batches, self.tracker.remaining))
        self.deaths = 0
        self.tracker.update_batch(progress.batches)
        self.totals.add(progress)
        self.weight += progress.samples
        self.slice_batches = _next_slice(progress)
        self.informant.trained(self.tracker.batch, progress.samples, self.totals.loss, self.totals.accuracy)
        if self.tracker.round_has_ended:
            self.phase = _Phase.SHARING

    async def _slice(self, worker: Worker, batches: int) -> Progress:
        """Train. Under DP the steps of a slice that nobody can count are undone: who pays for them could not tell."""
        before = worker.parameters.copy() if self.task.noises_steps else None
        try:
            return await worker.train(batches)
        except WorkerDied:
            if before is not None:
                await _copy(worker.parameters, before)
            raise

    async def _share(self, worker: Worker) -> None:
        """The exchange and the measurement before it run side by side: nobody waits for our validation rows."""
        await self._check_finite(worker)
        self.informant.does("sharing")
        death: list[WorkerDied] = []

        async def measure() -> None:
            try:
                self.before = await worker.evaluate("validation")
            except WorkerDied as error:
                death.append(error)

        weight = 1 if self.task.is_private else self.weight
        given = await _beside(measure, lambda: self.exchange.round_end(worker.parameters, weight))
        if given is not None:
            self.weight = 0
            await _copy(worker.parameters, given.parameters)
        self.joint = given if given is not None and given.round != self.round else None
        self.phase = _Phase.MEASURING
        if death:
            raise death[0]

    async def _measure(self, worker: Worker) -> None:
        after = self.before
        if after is None or self.joint is not None:
            after = await worker.evaluate("validation")
        self.deaths = 0
        if self.joint is not None:
            self.round = self.joint.round
        elif isinstance(self.exchange, LocalExchange):
            self.round += 1
        await self._report(worker, after)
        self.phase = _Phase.STARTING

    async def _report(self, worker: Worker, after: Metrics) -> None:
        totals, batch = self.totals, self.tracker.batch
        training = TrainingPoint(self.round, batch, totals.samples, totals.loss, totals.accuracy)
        before = self.before or after
        validation = ValidationPoint(
            self.round, before.loss, before.accuracy, after.loss, after.accuracy, joint=self.joint is not None
        )
        kept = validation if after.count else None
        contributors = self.joint.contributors if self.joint else ()
        self.informant.update(self.round, training, kept, contributors)
        if self.on_round is not None:
            await self.on_round(
                RoundReport(self.round, batch, self.joint, worker.parameters, training, kept, after.count)
            )

    async def _check_finite(self, worker: Worker) -> None:
        """A NaN never leaves this peer."""
        if await _in_thread_if_large(worker.parameters, lambda: _finite(worker.parameters)):
            return
        place = layout(self.task)
        name = not_finite(place, worker.parameters) if place.d == len(worker.parameters) else "the vector"
        why = f"training diverged: after batch {self.tracker.batch} the parameters of {name} are no numbers any more"
        raise TrainingFailed(why, "lower training.learning_rate, or check data.low and data.high in the task")

    _STEPS: dict[_Phase, Callable[[_Run, Worker], Awaitable[None]]] = {  # noqa: RUF012 - a table, never changed
        _Phase.STARTING: _start,
        _Phase.TRAINING: _train,
        _Phase.SHARING: _share,
        _Phase.MEASURING: _measure,
    }


def _finite(vector: Vector) -> bool:
    """Whether all of it is: in float64 the sum of finite float32 is finite. Takes no memory, unlike isfinite."""
    with np.errstate(invalid="ignore"):
        return math.isfinite(vector.sum(dtype=np.float64))


def _next_slice(progress: Progress) -> int:
    """Batches that take about SLICE_SECONDS, at least 1; the first guess may be wrong, so growth is bounded."""
    fitting = SLICE_SECONDS * progress.batches / max(progress.seconds, 1e-6)
    return max(1, min(round(fitting), SLICE_GROWTH * progress.batches))


async def _beside(
    background: Callable[[], Awaitable[None]], main: Callable[[], Awaitable[JointState | None]]
) -> JointState | None:
    """Both at once; returns what `main` returns. A single error comes out as itself, not as a group."""
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(background)
            return await main()
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise
    raise AssertionError("a nursery returns or raises")


async def _copy(target: Vector, source: Vector) -> None:
    """A copy, in a thread when it takes milliseconds. Cancellation leaves it complete."""
    await _in_thread_if_large(source, lambda: np.copyto(target, source))


async def _in_thread_if_large(vector: Vector, work: Callable[[], Any]) -> Any:
    if len(vector) > LARGE_FLOATS:
        return await trio.to_thread.run_sync(work)
    return work()
