"""`discod train --local`: a task trained on this machine alone, in the foreground. Nothing is sent."""

from __future__ import annotations

import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import trio

from discod.cli import home, output
from discod.cli.sources import Source
from discod.errors import BadData, Exit
from discod.store import TaskRow
from discod.train import taskfile, templates
from discod.train.informant import Informant
from discod.train.layers import layout
from discod.train.task import TaskSpec, encode_task
from discod.train.trainer import LocalExchange, RoundReport, run_training
from discod.train.vector import Vector
from discod.train.worker import Job, Worker, first_parameters, open_worker


def train(name: str, source: Source) -> int:
    """Train task `name` (known here, built in, or a file) on a data set alone; save the model. 0, or 6 below target."""
    task = find_task(name)
    last: list[RoundReport] = []
    began = time.time()
    parameters = trio.run(_train, task, source, last)
    accuracy = last[-1].validation.accuracy if last and last[-1].validation else None
    path = _save(task, parameters, accuracy)
    below = task.target is not None and accuracy is not None and accuracy < task.target
    data = {
        "task": task.name,
        "rounds": task.rounds,
        "accuracy": accuracy,
        "model": path,
        "seconds": round(time.time() - began, 1),
        "reached_target": None if task.target is None or accuracy is None else not below,
    }
    output.emit("train", data, lambda: _summary(data, below))
    return int(Exit.BELOW_TARGET if below else Exit.OK)


def find_task(name: str) -> TaskSpec:
    """A task file, a task this machine knows, or a built-in one. Raises: BadData."""
    if name.endswith(".toml"):
        try:
            return taskfile.load_task(Path(name).read_text("utf-8"), name)
        except (OSError, UnicodeDecodeError) as error:
            raise BadData(
                f"{name} cannot be read: {error}", "discod task new NAME writes one", code="no-task"
            ) from None
    with home.store() as store:
        known = [row for row in store.tasks() if row.name == name]
    return taskfile.decode_task(known[-1].spec) if known else templates.builtin_task(name)


async def _train(task: TaskSpec, source: Source, last: list[RoundReport]) -> Vector:
    def start(batch: int, parameters: Vector) -> AbstractAsyncContextManager[Worker]:
        return open_worker(Job(task, source.source, batch), parameters=parameters, on_event=output.note)

    async def on_round(report: RoundReport) -> None:
        last[:] = [report]
        _show(task, report)

    informant = Informant(task.name, task.rounds, task.round_duration)
    first = first_parameters(Job(task, source.source))
    return await run_training(task, start, LocalExchange(), informant, parameters=first, on_round=on_round)


def _show(task: TaskSpec, report: RoundReport) -> None:
    accuracy = output.number(report.validation.accuracy if report.validation else None)
    figures: dict[str, Any] = {"round": report.round, "loss": report.training.loss, "accuracy": accuracy}
    if output.options().jsonl:
        output.write(output.dumps({"schema": "discod.event/1", "type": "round.finished", **figures}))
    else:
        output.note(f"round {report.round}/{task.rounds}  loss {report.training.loss:.3f}  accuracy {accuracy}")


def _save(task: TaskSpec, parameters: Vector, accuracy: float | None) -> str:
    info = {} if accuracy is None else {"accuracy": repr(accuracy)}
    with home.store() as store:
        if store.task(task.id) is None:
            row = TaskRow(task.id, None, task.name, encode_task(task), False, None, "local", time.time())
            store.save_task(row)
        tensors = layout(task).views(parameters)
        saved = store.save_model(task.id, task.name, task.rounds, task.id, tensors, time.time(), info)
    return str(saved.path)


def _summary(data: dict[str, Any], below: bool) -> str:
    figures = f"accuracy alone {output.number(data['accuracy'])}" + (", below the task's target" if below else "")
    return (
        f"done in {output.span(data['seconds'])}: {figures}\nmodel {data['model']}\n"
        f"export it: discod model export {data['task']} -o {data['task']}.safetensors"
    )
