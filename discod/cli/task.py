"""`discod task`: what is learned. A task is a TOML file until it is published; then its hash is its name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from discod.cli import home, output, privacy, sources
from discod.cli.main import Verbs
from discod.errors import BadData, PermissionProblem, UsageError

if TYPE_CHECKING:
    from discod.train.task import TaskSpec


@click.group(cls=Verbs)
def task() -> None:
    """What is learned: write, check, publish, look at."""


@task.command()
@click.argument("name")
@click.option("--from", "source", help="Make it fit this data file, or sample:NAME.")
@click.option("--peers", type=click.IntRange(2, 255), default=3, show_default=True, help="No round with fewer.")
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), help="The file [default: NAME.toml].")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@click.option("--no-privacy", is_flag=True, help="Without noise: nothing bounds what the model says about a row.")
def new(name: str, source: str | None, peers: int, target: Path | None, force: bool, no_privacy: bool) -> None:
    """Write NAME.toml: the built-in task NAME, or one that fits a data file (--from)."""
    from discod.train.taskfile import dump_task

    home.config()
    spec = _new(name, source, peers, private=not no_privacy)
    path = target or Path(f"{name}.toml")
    _write(path, dump_task(spec), force)
    data = {"path": str(path), "id": _id(spec), "name": spec.name}
    output.emit("task-file", data, f"wrote {path}\nnext: discod task publish {path}")


@task.command()
@click.argument("file")
def validate(file: str) -> None:
    """Say what the task in FILE (or the built-in task of that name) does, or what is wrong with it."""
    home.config()
    spec = _load(file)
    lines = _explain(spec)
    data = {"id": _id(spec), "name": spec.name, "summary": lines}
    output.emit("task-file", data, lambda: "\n".join([f"{spec.name}  {data['id']}", *lines]))


@task.command()
@click.argument("file")
@click.option("--mesh", help="In which mesh; may be left out when there is only one.")
def publish(file: str, mesh: str | None) -> None:
    """Offer the task in FILE (or the built-in task of that name) to the mesh."""
    from discod.train.taskfile import dump_task

    home.config()
    spec = _load(file)
    home.identity()
    body = {"toml": dump_task(spec)} | ({"mesh": mesh} if mesh else {})
    found = home.started().post("/v1/tasks", body)
    output.emit("task", found, lambda: _published(found))


@task.command("list")
@click.option("--mesh", help="Only this mesh.")
def list_(mesh: str | None) -> None:
    """The tasks of my meshes."""
    home.config()
    home.identity()
    found = home.started().get("/v1/tasks" + home.query(mesh=mesh))
    head = ("TASK", "ID", "MESH", "ROUNDS", "ACCEPTED BY", "MINE")
    output.emit("tasks", found, lambda: output.columns(head, [_row(one) for one in found]))


@task.command()
@click.argument("name")
@click.option("--mesh", help="In which mesh.")
@click.option("--data", "alias", help="Say what it would cost this data set.")
def show(name: str, mesh: str | None, alias: str | None) -> None:
    """Everything about task NAME (or its id): what it sends, what it costs my data, and its file."""
    home.config()
    if alias is not None:
        sources.find(alias)
    home.identity()
    client = home.started()
    found = client.get(f"/v1/tasks/{home.quoted(name)}" + home.query(mesh=mesh))
    chosen = alias or (found["mine"] or {}).get("data")
    cost = privacy.forecast(client, found, chosen) if chosen else []
    output.emit("task", found | {"cost": cost}, lambda: _details(found, cost))


def _new(name: str, source: str | None, peers: int, *, private: bool) -> TaskSpec:
    from discod.train import templates

    if source is None:
        return templates.builtin_task(name, peers, private=private)
    from discod.train.datasets import SAMPLE_PREFIX, infer, load

    place = source if source.startswith(SAMPLE_PREFIX) else Path(source)
    schema = infer(place)
    return templates.infer_task(name, schema, len(load(place, schema)), peers, private=private)


def _load(file: str) -> TaskSpec:
    """The task of a file, or a built-in one. Raises: BadData, PermissionProblem."""
    from discod.train import taskfile, templates

    path = Path(file)
    if not path.exists() and file in templates.BUILTIN:
        return templates.builtin_task(file, private=True)
    try:
        return taskfile.load_task(path.read_text("utf-8"), file)
    except FileNotFoundError:
        raise BadData(f"{file} does not exist", f"discod task new {path.stem} writes one", code="no-task") from None
    except UnicodeDecodeError:
        raise BadData(f"{file} is not a text file", "a task is a TOML file", code="bad-task") from None
    except OSError as error:
        raise PermissionProblem(f"{file} cannot be read: {error.strerror}", "check its mode and owner") from None


def _write(path: Path, text: str, force: bool) -> None:
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{path} exists already and is kept", "--force replaces it") from None
    except OSError as error:
        raise PermissionProblem(f"{path} cannot be written: {error.strerror}", "-o FILE writes elsewhere") from None


def _explain(spec: TaskSpec) -> list[str]:
    from discod.train.explaining import explain
    from discod.train.layers import parameter_count

    return explain(spec, parameter_count(spec))


def _id(spec: TaskSpec) -> str:
    from discod.identity.ids import short_id

    return short_id(spec.id)


def _published(found: dict[str, Any]) -> str:
    starts = f"starts when {output.plural(found['min_peers'], 'peer')} accept"
    return (
        f"published {found['name']}  {found['short']}  to {found['mesh']}   {starts}\n"
        f"next, on every peer: discod train {found['name']}"
    )


def _row(one: dict[str, Any]) -> list[object]:
    mine = one["mine"]
    state = f"{mine['state']} with '{mine['data']}'" if mine else "not accepted"
    return [one["name"], one["short"], one["mesh"], one["rounds"], ", ".join(one["accepted_by"]) or "nobody", state]


def _details(found: dict[str, Any], cost: list[str]) -> str:
    head = f"{found['name']}  {found['id']}\npublished in {found['mesh']} by {found['published_by']}"
    accepted = "accepted by " + (", ".join(found["accepted_by"]) or "nobody yet")
    return "\n".join([head, accepted, *found["summary"], *cost, "", found["toml"].rstrip()])
