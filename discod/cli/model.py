"""`discod model`: use what came out. No daemon is needed; a worker computes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from discod.cli import home, output, saved, sources
from discod.cli.main import Verbs
from discod.errors import PermissionProblem, UsageError

if TYPE_CHECKING:
    from discod.cli.saved import Saved

SHOWN_ROWS = 20


@click.group(cls=Verbs)
def model() -> None:
    """Use the models that came out: REF is a task's name, NAME@ROUND, or a .safetensors file."""


@model.command("list")
def list_() -> None:
    """The models saved on this machine."""
    home.config()
    found = [_shown(row, one) for row, one in saved.all_saved()]
    rows = [(one["ref"], one["round"], one["hash"][:16], output.number(one["accuracy"]), one["path"]) for one in found]
    head = ("MODEL", "ROUND", "SHA-256", "ACCURACY", "FILE")
    empty = "no model yet: one is saved when a task is finished"
    output.emit("models", found, lambda: output.columns(head, rows) if rows else empty)


@model.command()
@click.argument("ref")
@click.option("--data", "alias", required=True, help="The data set to measure on.")
def evaluate(ref: str, alias: str) -> None:
    """Loss and accuracy of model REF on one of your data sets."""
    from discod.cli import computing

    home.config()
    one, source = saved.load(ref), sources.find(alias)
    metrics = computing.evaluate(one.task, one.vector, source.source, _event)
    data = {
        "ref": ref,
        "data": alias,
        "rows": metrics.count,
        "loss": metrics.loss,
        "accuracy": metrics.accuracy,
        "hash": one.hash,
    }
    text = f"{ref} on '{alias}': accuracy {metrics.accuracy:.4f}  loss {metrics.loss:.4f}  ({metrics.count} rows)"
    output.emit("evaluate", data, text)


@model.command()
@click.argument("ref")
@click.argument("input_", metavar="INPUT")
def predict(ref: str, input_: str) -> None:
    """What model REF says of the rows in INPUT: .npy, .npz (array x), a numeric .csv, or sample:NAME."""
    from discod.cli import computing

    home.config()
    one = saved.load(ref)
    rows = computing.predict(one.task, one.vector, input_, _event)
    data: dict[str, Any] = {"ref": ref, "rows": rows}
    if len(rows) == 1:
        data |= rows[0]
    output.emit("predict", data, lambda: _predictions(rows))


@model.command()
@click.argument("ref")
@click.option("-o", "--output", "target", required=True, type=click.Path(path_type=Path), help="The file to write.")
@click.option("--format", "format_", type=click.Choice(["safetensors", "npz"]), help="[default: as the file is called]")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
def export(ref: str, target: Path, format_: str | None, force: bool) -> None:
    """Write model REF to a file that other programs read; its metadata holds the task."""
    home.config()
    one = saved.load(ref)
    if target.exists() and not force:
        raise UsageError(f"{target} exists already and is kept", "--force replaces it")
    chosen = format_ or ("npz" if target.suffix == ".npz" else "safetensors")
    _WRITERS[chosen](target, one)
    output.emit("export", {"path": str(target), "format": chosen, "hash": one.hash}, f"wrote {target}")


def _safetensors(target: Path, one: Saved) -> None:
    from discod.store import save_tensors

    save_tensors(target, one.tensors, saved.metadata(one))


def _npz(target: Path, one: Saved) -> None:
    import numpy as np

    try:
        with target.open("wb") as file:
            np.savez(file, **one.tensors)  # type: ignore[arg-type]  # its stubs take every keyword for `allow_pickle`
    except OSError as error:
        raise PermissionProblem(f"{target} cannot be written: {error.strerror}", "-o FILE writes elsewhere") from None


_WRITERS = {"safetensors": _safetensors, "npz": _npz}


def _shown(row: Any, one: Saved) -> dict[str, Any]:
    accuracy = float(one.info["accuracy"]) if "accuracy" in one.info else None
    return {
        "ref": row.name,
        "task": row.task.hex(),
        "round": row.round,
        "hash": one.hash,
        "accuracy": accuracy,
        "created": row.saved,
        "path": str(row.path),
    }


def _predictions(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"row {number}  class {row['class']}  ({row['prob']:.3f})"
        + (f"  label {row['label']}" if "label" in row else "")
        for number, row in enumerate(rows[:SHOWN_ROWS])
    ]
    more = [f"and {len(rows) - SHOWN_ROWS} more rows: --json shows all"] if len(rows) > SHOWN_ROWS else []
    labelled = [row for row in rows if "label" in row]
    right = sum(row["class"] == row["label"] for row in labelled)
    score = [f"{right} of {len(labelled)} as labelled"] if labelled else []
    return "\n".join([*lines, *more, *score])


def _event(text: str) -> None:
    output.note(text)
