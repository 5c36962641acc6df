"""A run as the control API shows it: its state in a word, what it waits for in words, its figures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from discod.control.app import error_fields
from discod.daemon.run import Run
from discod.daemon.words import waiting_for
from discod.identity import show_id
from discod.store import FigureRow, RunRow

SERIES = ("loss", "accuracy_local", "accuracy", "accuracy_joint", "peers", "seconds")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
RECENT_ROUNDS = 10  # whose mean duration the estimate rests on


def state_of(run: Run) -> str:
    """waiting, compiling, training, exchanging, finished or failed."""
    if run.ending is not None:
        return run.ending
    if run.compiling or run.worker_pid is None:
        return "compiling"
    if run.informant.activity in ("sharing", "waiting"):
        return "waiting" if waits(run) else "exchanging"
    return "training"


def waits(run: Run) -> bool:
    """Whether too few peers are there for a round."""
    return len(ready_peers(run)) < run.min_peers


def ready_peers(run: Run) -> frozenset[bytes]:
    """Who could be in a round now, this peer included."""
    return run.exchange.status().ready | {run.around.identity.peer_id}


def words_of(run: Run) -> str:
    """One line for people."""
    state = state_of(run)
    if run.error is not None:
        return run.error.message
    if (words := way_words(run, state)) is not None:
        return words
    if state == "waiting":
        return waiting_words(run)
    if state == "compiling":
        return "compiling kernels (once)" if run.compiling else "starting the worker"
    if state == "exchanging":
        return f"combining round {run.informant.round + 1} ({run.exchange.status().phase})"
    if state == "training":
        return f"training round {run.informant.round + 1} of {run.task.spec.rounds}"
    return f"finished after {run.informant.round} rounds"


def way_words(run: Run, state: str) -> str | None:
    """In a fallback: which way updates go, and what is missing for it."""
    status = run.exchange.status()
    if status.way != "node" or state in ("finished", "failed", "compiling"):
        return None
    if status.phase == "away":
        return "no quorum is linked, and the node to fall back to is away: waiting for either"
    return f"fallback: round {run.informant.round + 1} through the node, no quorum is linked ({state})"


def waiting_words(run: Run) -> str:
    """Who is there and who is not."""
    members, me = run.around.meshes.members(run.task.mesh), run.around.identity.peer_id
    others = {peer: members.name(peer) for peer in members.trainers() if peer != me}
    ready = run.exchange.status().ready
    accepted = ready | frozenset(run.around.router.heard(run.task.scope))
    linked = run.around.meshes.net.linked().keys()
    return waiting_for(
        run.min_peers,
        sorted(others.values()),
        {others[peer] for peer in accepted & others.keys()},
        {others[peer] for peer in linked & others.keys()},
        secure=run.task.spec.aggregator == "secure",
    )


def shown_run(run: Run) -> dict[str, Any]:
    """The Run of the control API, of a run of this daemon."""
    run.count_traffic()
    seen, status = run.informant.snapshot(), run.exchange.status()
    measured = seen.validation[-1] if seen.validation else None
    return {
        **_identity(run),
        "state": state_of(run),
        "words": words_of(run),
        "round": run.exchange.round,
        "batches": seen.batch,
        "samples": seen.samples,
        "loss": measured.loss if measured else run.last_figure("loss"),
        "accuracy": measured.accuracy if measured else run.last_accuracy(),
        "accuracy_local": measured.accuracy_before if measured else run.last_figure("accuracy_local"),
        "accuracy_joint": run.last_figure("accuracy_joint"),
        "train_accuracy": seen.accuracy,
        "peers": {"current": seen.peers_current, "total": seen.peers_total, "average": seen.peers_average},
        "bytes_up": seen.bytes_sent,
        "bytes_down": seen.bytes_received,
        "eta_seconds": eta_seconds(run),
        "finished": run.ended or None,
        "lost_rounds": status.lost,
        "way": status.way or None,
        "switches": status.switches,
        "worker_restarts": seen.worker_restarts,
        "error": error_fields(run.error) if run.error else None,
        "model": run.model,
        "privacy": run.charging.shown(),
        "roster": sorted(map(run.names, status.roster)),
        "audit": run.task.spec.aggregation.audit,
    }


def _identity(run: Run) -> dict[str, Any]:
    return {
        "id": run.number,
        "task": run.task.spec.name,
        "task_id": show_id(run.task.id),
        "mesh": run.around.meshes.mesh_name(run.task.mesh),
        "data": run.alias,
        "rounds": run.task.spec.rounds,
        "started": run.started,
    }


def shown_row(row: RunRow, name: str, mesh: str, figures: Sequence[FigureRow]) -> dict[str, Any]:
    """The Run of the control API, of a run that is over and no longer in memory."""
    last = figures[-1] if figures else None
    numbers = last.figures if last else {}
    return {
        "id": row.number,
        "task": name,
        "task_id": show_id(row.task),
        "mesh": mesh,
        "data": row.data,
        "state": row.state,
        "words": f"{row.state} after {last.round if last else 0} rounds",
        "round": last.round if last else 0,
        "rounds": None,
        "batches": None,
        "samples": None,
        "loss": numbers.get("loss"),
        "accuracy": numbers.get("accuracy"),
        "accuracy_local": numbers.get("accuracy_local"),
        "accuracy_joint": numbers.get("accuracy_joint"),
        "train_accuracy": numbers.get("train_accuracy"),
        "peers": {"current": numbers.get("peers", 0), "total": None, "average": None},
        "bytes_up": numbers.get("bytes_up", 0),
        "bytes_down": numbers.get("bytes_down", 0),
        "eta_seconds": None,
        "started": row.started,
        "finished": row.ended,
        "lost_rounds": None,
        "way": None,
        "switches": None,
        "worker_restarts": None,
        "error": None,
        "model": None,
        "privacy": None,
        "roster": [],
        "audit": None,
    }


def series_of(figures: Sequence[FigureRow]) -> dict[str, list[Any]]:
    """Parallel lists over the rounds of a run."""
    shown: dict[str, list[Any]] = {"round": [row.round for row in figures]}
    return shown | {name: [row.figures.get(name) for row in figures] for name in SERIES}


def eta_seconds(run: Run) -> float | None:
    """How long the rest takes if rounds go on as the last ones did."""
    if not run.round_seconds or run.ending is not None:
        return None
    return (run.task.spec.rounds - run.exchange.round) * fmean(run.round_seconds[-RECENT_ROUNDS:])


def memory_mb() -> float:
    """Resident memory of this process, MB."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * PAGE_BYTES / 1e6
    except OSError:  # not Linux
        return 0.0
