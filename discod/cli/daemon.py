"""`discod up`, `down` and `daemon`."""

from __future__ import annotations

import time

import click

from discod.cli import home, output
from discod.cli.options import seconds
from discod.errors import TimedOut

DOWN_SECONDS = 20.0  # the daemon says Bye and ends its workers within 10
LOOK_SECONDS = 0.05


@click.command()
@click.option("--wait", default="30s", show_default=True, help="How long it may take to start.")
def up(wait: str) -> None:
    """Start the daemon in the background."""
    wait_seconds = seconds(wait, "--wait")
    home.config()
    home.identity()
    client = home.client()
    running = client.answers()
    if not running:
        home.launch(client, wait_seconds)
    status = client.get("/v1/status")
    text = "discod runs already" if running else "started discod (stop: discod down)"
    output.emit("up", {"pid": status["pid"], "started": not running}, text)


@click.command()
def down() -> None:
    """Stop the daemon; training goes on from where it was when it is started again."""
    home.config()
    client = home.client()
    if not client.answers():
        output.emit("down", {"stopped": False}, "discod was not running")
        return
    pid = client.post("/v1/shutdown", {})["pid"]
    deadline = time.monotonic() + DOWN_SECONDS
    while client.path.exists() or client.answers():
        if time.monotonic() > deadline:
            raise TimedOut(f"the daemon (process {pid}) does not end", f"kill {pid}")
        time.sleep(LOOK_SECONDS)
    output.emit("down", {"stopped": True, "pid": pid}, "stopped discod")


@click.command()
def daemon() -> None:
    """The daemon in the foreground, until SIGTERM or Ctrl-C; what systemd or `discod up` executes."""
    config = home.config()
    home.identity()
    from discod.daemon import serve

    serve(home.paths(), config)
