"""`discod status`, and what `discod` alone says: the state, or the next commands for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from discod.cli import home, output, sources
from discod.errors import Exit, NotRunning


@click.command()
@click.pass_context
def status(ctx: click.Context) -> int:
    """What runs here, on one screen; exit 0 healthy, 3 not running, 4 degraded."""
    home.config()
    found = home.client().get("/v1/status")
    output.emit("status", found, lambda: screen(found))
    return int(Exit.DEGRADED if found["state"] == "degraded" else Exit.OK)


def overview() -> None:
    """`discod` alone: the status screen of a running daemon, else what to do next; never starts one."""
    home.config()
    if not home.has_identity():
        data: dict[str, Any] = {"state": "no-identity", "next": list(_first_steps())}
        output.emit("overview", data, lambda: "\n".join(["no identity here yet.", *_steps(data["next"])]))
        return
    try:
        found = home.client().get("/v1/status")
    except NotRunning:
        data = {"state": "stopped", "next": [["discod up", "start the daemon"], ["discod --help", "all verbs"]]}
        output.emit("overview", data, lambda: "\n".join(["discod is not running.", *_steps(data["next"])]))
        return
    data = {"state": found["state"], "status": found, "next": list(_next_steps(found))}
    output.emit("overview", data, lambda: "\n".join([screen(found), *_steps(data["next"])]))


def _first_steps() -> Iterator[list[str]]:
    yield ["discod demo", "see it work on this machine alone"]
    yield ["discod join", "join a mesh by the link somebody sent"]
    yield ["discod mesh create NAME --signaling HOST", "make a mesh of your own"]


def _next_steps(found: dict[str, Any]) -> Iterator[list[str]]:
    if not found["meshes"]:
        yield ["discod join", "join a mesh by the link somebody sent"]
        yield ["discod mesh create NAME --signaling HOST", "make a mesh of your own"]
    elif not sources.known():
        yield ["discod data add ALIAS PATH", "name the data to train on; it stays here"]
    elif not [run for run in found["runs"] if not run["finished"]]:
        yield ["discod task list", "what can be trained"]
        yield ["discod train TASK", "train it"]
    else:
        yield [f"discod train {found['runs'][0]['task']} --follow", "watch it"]


def _steps(steps: list[list[str]]) -> list[str]:
    width = max((len(command) for command, _ in steps), default=0)
    return ["next:", *(f"  {command.ljust(width)}   {why}" for command, why in steps)]


def screen(found: dict[str, Any]) -> str:
    """The status as text."""
    lines = [
        f"discod {found['version']} · running {output.span(found['uptime_seconds'])} · "
        f"{found['name']} {found['peer']} · engine {found['engine']}"
    ]
    lines += [mesh_line(mesh) for mesh in found["meshes"]]
    lines += [run_line(run) for run in found["runs"]]
    lines += [f"warn {warning['text']}" + _arrow(warning.get("try")) for warning in found["warnings"]]
    return "\n".join(lines)


def _arrow(hint: str | None) -> str:
    return f"   -> {hint}" if hint else ""


def mesh_line(mesh: dict[str, Any]) -> str:
    """One mesh on one line."""
    signaling = mesh["signaling"]
    rtt = f" {signaling['rtt_seconds'] * 1000:.0f} ms" if signaling["rtt_seconds"] is not None else ""
    seen = f"ok{rtt}" if signaling["connected"] else f"unreachable ({signaling['error'] or 'retrying'})"
    links = f"{mesh['direct']} direct, {mesh['relayed']} relayed"
    return f"mesh {mesh['name']}  {output.plural(mesh['peers'], 'peer')} ({links})  signaling {seen}"


def run_line(run: dict[str, Any]) -> str:
    """One run on one line."""
    figures = f"round {run['round']}/{run['rounds']}"
    if run["loss"] is not None:
        figures += f"  loss {run['loss']:.3f}"
    if run["accuracy"] is not None:
        figures += f"  accuracy {run['accuracy']:.3f}"
    if run.get("accuracy_joint") is not None:
        figures += f"  joint accuracy {run['accuracy_joint']:.3f}"
    if (privacy := run.get("privacy")) is not None:
        figures += f"  eps {output.number(privacy['spent'], 1)}/{output.number(privacy['epsilon'], 1)}"
    if run["eta_seconds"] is not None and not run["finished"]:
        figures += f"  eta {output.span(run['eta_seconds'])}"
    if run.get("audit") == "none" and not run["finished"]:
        figures += "  sums not audited"
    words = f"  {run['words']}" if run["state"] in ("waiting", "compiling", "failed") and run["words"] else ""
    return f"run  {run['task']} #{run['id']}  {run['state']}  {figures}{words}"
