"""All runs of the daemon: begun by accepting a task, resumed at the next start, watched while they go on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgspec
import trio

from discod.control.app import whole_number
from discod.daemon.run import Run
from discod.daemon.saving import shown_model, vector_hash
from discod.daemon.showing import series_of, shown_row, shown_run, state_of, waiting_words
from discod.daemon.sources import Sources
from discod.daemon.surroundings import Surroundings
from discod.daemon.tasks import OfferedTask, Tasks
from discod.errors import BadData, UsageError
from discod.store import ModelRow, RunRow
from discod.train.taskfile import decode_task
from discod.train.worker import Job, job_layout

TELL_SECONDS = 0.5  # how often a run that goes on is looked at for news


class Runs:
    """The runs of this daemon by task; at most one to a task."""

    def __init__(self, around: Surroundings, tasks: Tasks, sources: Sources, nursery: trio.Nursery) -> None:
        self._around, self._tasks, self._sources, self._nursery = around, tasks, sources, nursery
        self._live: dict[bytes, Run] = {}  # scope -> run
        self._waiting_rows: list[RunRow] = [row for row in self._last_rows() if row.ended is None or _served(row)]

    def _last_rows(self) -> list[RunRow]:
        """The last run of each task."""
        return list({row.task: row for row in self._around.store.runs()}.values())

    def resume(self) -> None:
        """Go on with runs of an earlier daemon whose task is known by now; finished ones only serve."""
        for row in list(self._waiting_rows):
            task = next((one for one in self._tasks.all(self._around.meshes.ids()) if one.id == row.task), None)
            if task is None:
                continue
            self._waiting_rows.remove(row)
            try:
                source = self._sources.find(row.data) if row.ended is None else ""
            except BadData:
                self._around.store.end_run(row.number, "failed", row.started)
                continue
            self._begin(task, row, source)

    async def accept(self, task: OfferedTask, alias: str) -> Run:
        """Take part in a task with a data set; the same again changes nothing.

        Raises: BadData (no such data, or they do not fit), UsageError (other data), UserError (disk-full).
        """
        run = self._live.get(task.scope)
        if run is not None and run.ending != "failed":
            if run.alias == alias:
                return run
            why = f"'{task.spec.name}' is being trained with '{run.alias}'"
            raise UsageError(why, f"--data {run.alias}", code="already-accepted")
        source = await self._sources.check(alias, task.spec)
        self._tasks.keep(task)  # only now: what others offer fills nobody's disk
        store = self._around.store
        number = store.start_run(task.id, alias, time.time())
        store.accept_task(task.id, alias)
        row = next(row for row in store.runs() if row.number == number)
        run = self._begin(task, row, source)
        run.tell("task.accepted", mesh=self._around.meshes.mesh_name(task.mesh), peer=run.names(self._me))
        return run

    def _begin(self, task: OfferedTask, row: RunRow, source: str) -> Run:
        run = Run(row.number, task, row.data, source, self._around)
        run.started = row.started
        if row.ended is not None:
            run.ending, run.ended = "finished", row.ended
            run.model = self._model_of(task)
        self._live[task.scope] = run
        self._nursery.start_soon(self._run, run)
        return run

    async def _run(self, run: Run) -> None:
        async with trio.open_nursery() as nursery:
            if run.ending is None:
                nursery.start_soon(tell_progress, run)
            await run.run()

    @property
    def _me(self) -> bytes:
        return self._around.identity.peer_id

    def heard(self, mesh: bytes) -> None:
        """The members of a mesh changed."""
        for run in self._live.values():
            if run.task.mesh == mesh:
                run.exchange.members_changed()

    def round_of(self, scope: bytes, peer: bytes) -> int | None:
        """The round of the state that a peer, or this one, stands on in a task that this peer takes part in."""
        run = self._live.get(scope)
        return None if run is None else run.exchange.round if peer == self._me else run.exchange.round_of(peer)

    def mine(self, task: OfferedTask) -> dict[str, Any] | None:
        """This peer's part in a task."""
        run = self._live.get(task.scope)
        return {"run": run.number, "data": run.alias, "state": state_of(run)} if run else None

    def live(self) -> list[Run]:
        """Runs in memory, oldest first."""
        return sorted(self._live.values(), key=lambda run: run.number)

    def current(self) -> list[dict[str, Any]]:
        """For status: the runs that go on or failed, and the last finished one."""
        runs = self.live()
        finished = [run for run in runs if run.ending == "finished"][-1:]
        return [shown_run(run) for run in runs if run.ending != "finished" or run in finished]

    def all(self) -> list[dict[str, Any]]:
        """Every run of this home, oldest first."""
        live = {run.number: run for run in self.live()}
        rows = self._around.store.runs()
        return [shown_run(live[row.number]) if row.number in live else self._old(row) for row in rows]

    def find(self, ref: str) -> dict[str, Any]:
        """One run with its series. Raises: UsageError."""
        number = whole_number(ref, "run")
        for shown in self.all():
            if shown["id"] == number:
                return shown | {"series": series_of(self._around.store.figures(number))}
        raise UsageError(f"there is no run {number}", "discod status shows the runs", code="unknown-run")

    def _old(self, row: RunRow) -> dict[str, Any]:
        known = self._around.store.task(row.task)
        mesh = known.mesh if known and known.mesh in self._around.meshes.ids() else None
        name = self._around.meshes.mesh_name(mesh) if mesh else ""
        return shown_row(row, known.name if known else "", name, self._around.store.figures(row.number))

    def _model_of(self, task: OfferedTask) -> dict[str, Any] | None:
        rows = [row for row in self._around.store.models() if row.task == task.id]
        return self._shown_model(rows[-1]) if rows else None

    def models(self) -> list[dict[str, Any]]:
        """The Models of the control API. Raises: BadData when a file is damaged."""
        return [shown for row in self._around.store.models() if (shown := self._shown_model(row))]

    def _shown_model(self, row: ModelRow) -> dict[str, Any] | None:
        known = self._around.store.task(row.task)
        if known is None:
            return None
        tensors, info = self._around.store.load_model(row)
        place = job_layout(Job(decode_task(known.spec), "", stand_in_length=self._around.engine.length))
        hash_ = vector_hash(place.flatten(tensors)) if set(tensors) == set(place.names) else ""
        accuracy = msgspec.json.decode(text) if (text := info.get("accuracy", "")) not in ("", "None") else None
        return shown_model(row, hash_, accuracy, certified=bool(info.get("certificate")))


def _served(row: RunRow) -> bool:
    return row.state == "finished"


async def tell_progress(run: Run) -> None:
    """Events about training under way, at most two a second, and about what it waits for when that changes."""
    told: tuple[Any, ...] = ()
    revision = -1
    while run.ending is None:
        await trio.sleep(TELL_SECONDS)
        run.count_traffic()
        for news in news_of(run, revision):
            if news != told:
                told = news
                run.tell(news[0], **dict(news[1]))
        revision = run.informant.revision


def news_of(run: Run, revision: int) -> Iterator[tuple[str, tuple[tuple[str, Any], ...]]]:
    """What can be told of a run now, if anything changed since `revision` of its informant."""
    state, seen = state_of(run), run.informant.snapshot()
    if state == "waiting":
        yield "run.waiting", (("words", waiting_words(run)),)
    elif state == "exchanging":
        yield "run.exchanging", (("round", seen.round + 1), ("phase", run.exchange.status().phase))
    elif state == "training" and seen.revision != revision:
        yield (
            "run.training",
            (
                ("round", seen.round + 1),
                ("batches", seen.step),
                ("of", seen.round_duration),
                ("loss", seen.loss),
                ("accuracy", seen.accuracy),
                ("samples", seen.samples),
            ),
        )
