"""`discod join`: into a mesh by an invite link, a secret that stdin, a hidden prompt or DISCOD_INVITE carries."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from discod.cli import home, output
from discod.cli.options import seconds
from discod.errors import BadInvite, UsageError

VARIABLE = "DISCOD_INVITE"


@click.command()
@click.argument("link", required=False)
@click.option("--name", "peer_name", help="This machine's name, if it has no identity yet.")
@click.option("--wait", default="60s", show_default=True, help="How long to try.")
def join(link: str | None, peer_name: str | None, wait: str) -> None:
    """Join a mesh by an invite LINK: from stdin (or -), a prompt, or $DISCOD_INVITE.

    On the command line it works too, but other users of this machine can read it there.
    """
    wait_seconds = seconds(wait, "--wait")
    home.config()
    secret = _link(link)
    home.check_invite(secret)
    home.ensure_identity(peer_name)
    client = home.started()
    begun = client.post("/v1/join", {"link": secret, "wait_seconds": wait_seconds})
    found = client.wait_for_op(begun["op"], begun["since"], on_event=_progress)
    output.emit("join", found, lambda: _joined(found))


def _link(word: str | None) -> str:
    """The invite link, from wherever it is. Raises: UsageError when it is nowhere, BadInvite when it is empty."""
    if word is not None and word != "-":
        output.warn(f"an invite on the command line shows in ps; better: discod join (it asks), or {VARIABLE}")
        return word
    if word is None and os.environ.get(VARIABLE):
        return os.environ[VARIABLE].strip()
    if word is None and output.interactive():
        return str(click.prompt("invite link (not shown)", hide_input=True, err=True)).strip()
    if word is None and sys.stdin.isatty():
        raise UsageError("there is no invite link", f"discod join - < FILE, or set {VARIABLE}")
    text = sys.stdin.read().strip()
    if not text:
        raise BadInvite("stdin held no invite link", "ask for a link: discod invite prints one")
    return text


def _progress(event: dict[str, Any]) -> None:
    if event.get("type") == "op.progress":
        output.note(f" ok  {event['text']}")


def _joined(mesh: dict[str, Any]) -> str:
    others = [peer for peer in mesh.get("peers", []) if not peer["self"]]
    paths = ", ".join(f"{peer['name']} {peer['path'] or peer['state']}" for peer in others)
    return f"joined {mesh['name']} ({mesh['role']})" + (f": {paths}" if paths else "") + "\nnext: discod task list"
