"""One run: an accepted task, its exchange, its worker, and what is told of it.

    worker (child)  <->  run_training  <->  Watched  <->  exchange  <->  router  <->  links
                            | on_round
                            v
              working checkpoint, figures, events; at the end the model

A run that is finished goes on serving its certified state, so that slower peers get there too, until the daemon ends.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Literal

import msgspec
import trio

from discod.control.app import error_fields
from discod.daemon.charging import content_of
from discod.daemon.releasing import charging_for
from discod.daemon.resuming import where_to_start
from discod.daemon.saving import figures_of, measured_in, save_model, save_working, shown_model, vector_hash
from discod.daemon.surroundings import Surroundings
from discod.daemon.tasks import OfferedTask
from discod.daemon.traffic import Counted, Traffic
from discod.daemon.turn import told
from discod.daemon.watched import Watched
from discod.errors import UserError
from discod.p2p.mesh import LinkUp
from discod.train.informant import Informant
from discod.train.trainer import RoundReport, run_training
from discod.train.vector import Vector
from discod.train.worker import Job, Worker, first_parameters, job_layout, open_worker

Ending = Literal["finished", "failed"]


class Run:
    """Run `number` of a task with the data set `alias`, which is read from `source`."""

    def __init__(self, number: int, task: OfferedTask, alias: str, source: str, around: Surroundings) -> None:
        self.number, self.task, self.alias, self.source, self.around = number, task, alias, source, around
        self.started, self.ended = time.time(), 0.0
        self.ending: Ending | None = None
        self.error: UserError | None = None
        self.model: dict[str, Any] | None = None
        self.compiling = False
        self.worker_pid: int | None = None
        self.workers = 0  # started so far
        self.round_seconds: list[float] = []
        self.traffic = Traffic(self.counted())
        engine, spec = around.engine, task.spec
        self.job = Job(spec, source, 0, engine.name, engine.device, engine.length, engine.seconds_per_batch)
        self.charging = charging_for(spec)
        self.exchange = around.make_exchange(
            task=spec,
            scope=task.scope,
            members=around.meshes.members(task.mesh),
            mesh=around.meshes.net,
            identity=around.identity,
            store=around.store,
            initial_parameters=first_parameters(self.job),
            min_peers=self.min_peers,
            notify=self._note,
            charging=self.charging,
        )
        self.informant = Informant(spec.name, spec.rounds, spec.round_duration, round=self.exchange.round)

    @property
    def min_peers(self) -> int:
        """No round with fewer: the task's number, or this peer's own if that is larger."""
        return max(self.task.spec.min_peers, self.around.min_peers)

    @property
    def names(self) -> Callable[[bytes], str]:
        """PeerId -> name."""
        return self.around.meshes.members(self.task.mesh).name

    async def run(self) -> None:
        """Train to the end, then serve until cancelled. A UserError ends the run and is kept; others are bugs."""
        try:
            await self._run()
        except* UserError as group:
            self._fail(next(_leaves(group)))

    async def _run(self) -> None:
        net, router, scope = self.around.meshes.net, self.around.router, self.task.scope
        router.register(scope, self.exchange)
        try:
            for peer, info in net.linked().items():
                self.exchange.deliver(LinkUp(peer, info.path))
            async with trio.open_nursery() as nursery:
                await nursery.start(self.exchange.run)
                if self.ending is None:
                    await self._train_or_leave()
                self.exchange.retire()
                await trio.sleep_forever()
        finally:
            router.unregister(scope)

    async def _train_or_leave(self) -> None:
        """Whoever cannot train on leaves the round, with the reason, so that nobody waits for it."""
        try:
            await self._train()
        except UserError as error:
            self.exchange.retire(told(error))
            raise

    async def _train(self) -> None:
        spec, store = self.task.spec, self.around.store
        working = await trio.to_thread.run_sync(store.load_working, spec.id)
        spent = await trio.to_thread.run_sync(store.spent, spec.id)
        content = await trio.to_thread.run_sync(content_of, self.source) if spec.is_private else None
        first = self.exchange.set_out()
        start = where_to_start(self.exchange.base, first, working, spent)
        self.charging.begin(content, spent, start.batches, at_base=start.parameters is first)
        self.informant = Informant(
            spec.name, spec.rounds, spec.round_duration, round=self.exchange.round, batch=start.batches
        )
        self.exchange.batches = start.batches
        watched = Watched(self.exchange, self.informant, self.charging)
        await run_training(
            spec,
            self._start_worker,
            watched,
            self.informant,
            parameters=start.parameters,
            batch=start.batches,
            round=self.exchange.round,
            on_round=partial(self._on_round, watched),
        )
        await self._finish()

    @asynccontextmanager
    async def _start_worker(self, batch: int, parameters: Vector) -> AsyncIterator[Worker]:
        job = msgspec.structs.replace(self.job, batch_counter=batch)
        if self.workers:  # the trainer asks for another one only when the last one died
            self.tell("worker.died", why=f"it ended after batch {batch}")
        self.workers += 1
        try:
            async with open_worker(
                job, parameters=parameters, cache=self.around.cache, on_event=self._worker_says
            ) as worker:
                self.compiling, self.worker_pid = False, worker.pid
                self.charging.trains(worker.noise)
                yield worker
        finally:
            self.compiling, self.worker_pid = False, None

    def _worker_says(self, text: str) -> None:
        self.informant.say(text)
        if not self.compiling:
            self.compiling = True
            self.tell("run.compiling", text=text)

    def _note(self, event: str, fields: dict[str, Any]) -> None:
        self.tell(event, **fields)

    def tell(self, event: str, **fields: Any) -> None:
        """An event of this run."""
        self.around.events.add(event, run=self.number, task=self.task.spec.name, **fields)

    def counted(self) -> dict[bytes, Counted]:
        """The counters of the links to members of this run's mesh."""
        members = self.around.meshes.members(self.task.mesh)
        return {
            peer: Counted(info.since, sum(info.bytes_up.values()), sum(info.bytes_down.values()))
            for peer, info in self.around.meshes.net.linked().items()
            if members.is_member(peer)
        }

    def count_traffic(self) -> None:
        """Bring the informant's byte counts up to date."""
        self.traffic.update(self.counted())
        status = self.exchange.status()
        sent, received = status.bytes_up or self.traffic.up, status.bytes_down or self.traffic.down
        seen = self.informant.snapshot()
        if (sent, received) != (seen.bytes_sent, seen.bytes_received):
            self.informant.traffic(sent, received)

    async def _on_round(self, watched: Watched, report: RoundReport) -> None:
        seconds = time.monotonic() - watched.began
        self.exchange.batches = report.batch
        store, task = self.around.store, self.task.id
        await trio.to_thread.run_sync(save_working, store, task, self.exchange.base, report)
        self.count_traffic()
        if report.joint is None and self.exchange.status().waits_there:
            return  # a federated buffer keeps it; training goes on meanwhile
        if report.joint is None:
            self.tell(
                "round.lost", round=report.round + 1, why=self.exchange.status().last_loss or "no joint state came"
            )
            return
        self.exchange.measured = measured_in(report, self.exchange)
        self.round_seconds.append(seconds)
        figures = figures_of(report, self.informant.snapshot(), seconds)
        await trio.to_thread.run_sync(store.add_figures, self.number, report.round, time.time(), figures)
        roster = sorted(map(self.names, report.joint.contributors))
        self.tell(
            "round.finished",
            round=report.round,
            rounds=self.task.spec.rounds,
            roster=roster,
            state=self.exchange.base[:4].hex(),
            batches=report.batch,
            epsilon=self.charging.epsilon,
            **figures,
        )

    async def _finish(self) -> None:
        accuracy, exchange, place = self.last_accuracy(), self.exchange, job_layout(self.job)
        row = await trio.to_thread.run_sync(save_model, self.around.store, self.task.spec, exchange, place, accuracy)
        hash_ = vector_hash(exchange.parameters)
        self.model = shown_model(row, hash_, accuracy, certified=bool(exchange.certificate))
        self._end("finished")
        target = self.task.spec.target
        self.tell(
            "run.finished",
            round=self.exchange.round,
            accuracy=accuracy,
            accuracy_local=self.last_figure("accuracy_local"),
            model=self.model,
            seconds=time.time() - self.started,
            reached_target=None if target is None or accuracy is None else accuracy >= target,
        )

    def last_accuracy(self) -> float | None:
        """Of the last joint state, on this peer's own validation rows."""
        found: float | None = self.last_figure("accuracy")
        return found

    def last_figure(self, name: str) -> Any:
        """What was measured last in this run, None if nothing was."""
        figures = self.around.store.figures(self.number)
        return figures[-1].figures.get(name) if figures else None

    def _fail(self, error: UserError) -> None:
        """Where the disk has no room to note this either, the run counts as going on: the next start resumes it."""
        self.error = error
        with suppress(UserError):
            self._end("failed")
        self.tell("run.failed", error=error_fields(error))

    def _end(self, ending: Ending) -> None:
        self.ending, self.ended = ending, time.time()
        self.around.store.end_run(self.number, ending, self.ended)
        self.around.store.set_task_state(self.task.id, ending)


def _leaves(group: BaseExceptionGroup[UserError]) -> Any:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
