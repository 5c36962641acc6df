"""Watching a run: one line per round, or one JSON event per line, until it ends or the watcher leaves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from discod.cli import output
from discod.errors import Exit, UserError

WATCHED = (
    "run.waiting",
    "run.compiling",
    "round.finished",
    "round.lost",
    "worker.died",
    "run.finished",
    "run.failed",
)


def run(client: Any, begun: dict[str, Any]) -> int:
    """Follow run `begun` to its end; 0, or 6 when it ended below its target. Ctrl-C stops watching only."""
    try:
        return _follow(client, begun)
    except KeyboardInterrupt:
        output.note(f"\nno longer watching; {begun['task']} goes on. Again: discod train {begun['task']} --follow")
        return int(Exit.INTERRUPTED)


def _follow(client: Any, begun: dict[str, Any]) -> int:
    for event in client.events(since=begun["since"], run=begun["id"]):
        if event["type"] not in WATCHED:
            continue
        if output.options().jsonl:
            output.write(output.dumps(event))
        elif line := describe(event):
            output.note(line)
        if event["type"] == "run.failed":
            raise UserError(**{key: event["error"][key] for key in ("message", "hint", "code", "exit")})
        if event["type"] == "run.finished":
            return _ended(event)
    raise UserError("the daemon ended while the run was going on", "discod up; the run continues by itself")


def describe(event: dict[str, Any]) -> str:
    """One event for the eye; empty for one that says nothing new."""
    match event["type"]:
        case "run.waiting":
            return f"{event['words']}. You may close this: training starts by itself."
        case "run.compiling":
            return "compiling kernels (once)"
        case "round.finished":
            return "  ".join(_round(event))
        case "round.lost":
            return f"round {event['round']} was lost: {event['why']}; training goes on"
        case "worker.died":
            return f"the worker died ({event['why']}) and was started again"
    return ""


def _round(event: dict[str, Any]) -> Iterator[str]:
    """The parts of a round's line: what was measured, and what it cost."""
    yield f"round {event['round']}/{event['rounds']}  loss {output.number(event['loss'])}"
    if event["accuracy"] is not None:  # with noise there may be no rows to measure on
        yield f"alone {output.number(event['accuracy_local'])}  together {output.number(event['accuracy'])}"
    if event.get("accuracy_joint") is not None:  # of the state that the round started from
        yield f"joint accuracy {output.number(event['accuracy_joint'])} over the peers' own validation rows"
    if event.get("epsilon") is not None:
        yield f"epsilon {event['epsilon']:.2f}"
    yield f"{output.plural(event['peers'], 'peer')}  sent {output.size(event['bytes_up'])}"


def _ended(event: dict[str, Any]) -> int:
    below = event["reached_target"] is False
    if not output.options().jsonl:
        output.emit("run", event, lambda: _summary(event, below))
    return int(Exit.BELOW_TARGET if below else Exit.OK)


def _summary(event: dict[str, Any], below: bool) -> str:
    task, model = event["task"], event["model"]
    figures = "nothing was measured: no row is kept for that"
    if event["accuracy"] is not None:
        before = output.number(event["accuracy_local"])
        figures = f"together {output.number(event['accuracy'])}, before averaging {before}"
    lines = [f"done in {output.span(event['seconds'])}: {figures}" + (", below the task's target" if below else "")]
    return "\n".join([*lines, f"model {model['path']}", f"export it: discod model export {task} -o {task}.safetensors"])
