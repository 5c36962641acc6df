"""`discod train`: accept a task with a data set and follow it, or train it alone."""

from __future__ import annotations

import sys
from typing import Any

import click

from discod.cli import follow, home, output, privacy, sources
from discod.client import Client
from discod.errors import Exit, NotAllowed, UsageError


@click.command()
@click.argument("task")
@click.option("--data", "alias", help="The data set to train on; may be left out when there is only one.")
@click.option("--local", is_flag=True, help="Alone, without the network.")
@click.option("--follow/--no-follow", "followed", default=None, help="Watch it until it ends [default: on a terminal].")
@click.option("--yes", is_flag=True, help="Accept what the task sends without being asked.")
def train(task: str, alias: str | None, local: bool, followed: bool | None, yes: bool) -> int:
    """Train TASK with your data: accept it, then watch it. Ctrl-C stops watching, not training."""
    home.config()
    if local:
        from discod.cli import alone

        return alone.train(task, sources.find(_data(alias)))
    chosen = _data(alias)
    home.identity()
    client = home.started()
    found = client.get(f"/v1/tasks/{home.quoted(task)}")
    if found["mine"] is None or found["mine"]["state"] == "failed":
        _consent(client, found, chosen, yes)
    run = client.post(f"/v1/tasks/{home.quoted(found['id'])}/accept", {"data": chosen, "mesh": found["mesh"]})
    if followed if followed is not None else sys.stdout.isatty():
        return follow.run(client, run)
    output.emit("run", run, f"accepted {found['name']} with '{chosen}': {run['words']}")
    output.note(f"watch it: discod train {found['name']} --follow")
    return int(Exit.OK)


def _data(alias: str | None) -> str:
    """The alias to train on. Raises: UsageError when it is not clear which one."""
    if alias is not None:
        return sources.find(alias).alias
    known = [one.alias for one in sources.known()]
    if len(known) == 1:
        return known[0]
    if not known:
        raise UsageError("there is no data set to train on", "discod data add ALIAS PATH")
    raise UsageError(f"which data set: {', '.join(known)}?", f"--data {known[0]}")


def _consent(client: Client, task: dict[str, Any], alias: str, yes: bool) -> None:
    """What the task sends and what that costs the data, and a person's yes. Raises: NotAllowed without one."""
    for line in [*task["summary"], *privacy.forecast(client, task, alias)]:
        output.note(line)
    if yes:
        return
    if not output.interactive():
        raise NotAllowed(f"'{task['name']}' needs your consent, and nobody can be asked here", "add --yes")
    if not click.confirm(f"Train {task['name']} with '{alias}'?", default=False, err=True):
        raise NotAllowed("not accepted: nothing was sent")
