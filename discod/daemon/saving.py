"""What a run leaves on disk: the working checkpoint, figures, the model."""

from __future__ import annotations

import hashlib
import time
from typing import Any

from discod.daemon.exchanging import RunExchange
from discod.daemon.resuming import PARAMETERS
from discod.store import ModelRow, Store
from discod.train.informant import Snapshot
from discod.train.rounds import Measured
from discod.train.task import TaskSpec
from discod.train.totals import Totals
from discod.train.trainer import RoundReport
from discod.train.vector import Layout, Vector


def save_working(store: Store, task: bytes, base: bytes, report: RoundReport) -> None:
    """Keep where training stands after a round; a certified one is kept as such already, so only the counter is.

    Raises: UserError (disk-full).
    """
    vectors = {} if report.joint is not None else {PARAMETERS: report.parameters}
    store.save_working(task, vectors, base=base, batches=report.batch)


def figures_of(report: RoundReport, seen: Snapshot, seconds: float) -> dict[str, Any]:
    """What was measured in a round that gave a joint state."""
    measured, before = report.validation, report.joint.before if report.joint else None
    return {
        "peers": len(report.joint.contributors) if report.joint else 0,
        "loss": measured.loss if measured else report.training.loss,
        "train_loss": report.training.loss,
        "train_accuracy": report.training.accuracy,
        "accuracy_local": measured.accuracy_before if measured else None,
        "accuracy": measured.accuracy if measured else None,
        "accuracy_joint": before.accuracy if before else None,
        "loss_joint": before.mean_loss if before else None,
        "bytes_up": seen.bytes_sent,
        "bytes_down": seen.bytes_received,
        "seconds": seconds,
    }


def measured_in(report: RoundReport, exchange: RunExchange) -> Measured | None:
    """What this peer measured of the base; None when the base is another by now, or there was nothing to measure on."""
    point, is_base = report.validation, report.joint is not None and report.joint.parameters is exchange.parameters
    if point is None or not is_base:
        return None
    totals = Totals(point.loss * report.rows, round(point.accuracy * report.rows), report.rows)
    return Measured(exchange.base, totals)


def save_model(store: Store, task: TaskSpec, exchange: RunExchange, layout: Layout, accuracy: float | None) -> ModelRow:
    """Save the certified state as a model, unless a daemon that ended too early did so already.

    Raises: UserError (disk-full).
    """
    for row in store.models():
        if (row.task, row.state) == (task.id, exchange.base):
            return row
    info = {"certificate": exchange.certificate.hex()}
    if accuracy is not None:  # with noise no row is kept to measure on
        info["accuracy"] = repr(accuracy)
    tensors = layout.views(exchange.parameters)
    return store.save_model(task.id, task.name, exchange.round, exchange.base, tensors, time.time(), info)


def vector_hash(vector: Vector) -> str:
    """SHA-256 of a vector (d,), the same on every peer that has it."""
    return hashlib.sha256(vector.astype("<f4", copy=False).tobytes()).hexdigest()


def shown_model(row: ModelRow, hash_: str, accuracy: float | None, *, certified: bool) -> dict[str, Any]:
    """The Model of the control API."""
    return {
        "ref": row.name,
        "task": row.name,
        "round": row.round,
        "hash": hash_,
        "path": str(row.path),
        "accuracy": accuracy,
        "created": row.saved,
        "certified": certified,
    }
