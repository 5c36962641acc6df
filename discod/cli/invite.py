"""`discod invite`: links that let somebody into a mesh."""

from __future__ import annotations

import time
from typing import Any

import click

from discod.cli import home, output
from discod.cli.main import Verbs
from discod.cli.options import seconds


class _Invite(Verbs):
    default = "create"


@click.group(cls=_Invite)
def invite() -> None:
    """Invite somebody into a mesh: discod invite [MESH] makes a link."""


@invite.command()
@click.argument("mesh", required=False)
@click.option("--uses", type=click.IntRange(1, 1000), default=1, show_default=True, help="How many may join by it.")
@click.option("--expires", default="24h", show_default=True, help="How long it is good for.")
@click.option("--role", type=click.Choice(["trainer", "observer", "admin"]), default="trainer", show_default=True)
@click.option("--qr", is_flag=True, help="Also as a QR code.")
def create(mesh: str | None, uses: int, expires: str, role: str, qr: bool) -> None:
    """Make a link for MESH (may be left out when there is only one). The link is a secret: send it privately."""
    lasts = seconds(expires, "--expires")
    home.config()
    body = {"mesh": mesh, "uses": uses, "expires_seconds": round(lasts), "role": role}
    found = home.started().post("/v1/invites", {key: value for key, value in body.items() if value is not None})
    output.emit("invite", found, found["link"])
    output.note(f"({output.plural(uses, 'use')}, {role}, {expires}; join with: discod join)")
    if qr:
        _show_qr(found["link"])


@invite.command("list")
@click.option("--mesh", help="Only this mesh.")
def list_(mesh: str | None) -> None:
    """The invites made here; never their links."""
    home.config()
    found = home.started().get("/v1/invites" + home.query(mesh=mesh))
    head = ("ID", "MESH", "ROLE", "USED", "STATE", "EXPIRES")
    output.emit("invites", found, lambda: output.columns(head, [_row(one) for one in found]))


@invite.command()
@click.argument("invite_id", metavar="ID")
def revoke(invite_id: str) -> None:
    """Nobody else gets in by invite ID; who is in stays in."""
    home.config()
    found = home.started().post(f"/v1/invites/{home.quoted(invite_id)}/revoke", {})
    output.emit("invite", found, f"revoked {found['id']}")


def _row(one: dict[str, Any]) -> list[object]:
    left = one["expires"] - time.time()
    expires = f"in {output.span(left)}" if left > 0 else "expired"
    return [one["id"], one["mesh"], one["role"], f"{one['used']}/{one['uses']}", one["state"], expires]


def _show_qr(link: str) -> None:
    import sys

    import segno

    if not output.options().json:
        segno.make(link, error="l").terminal(out=sys.stderr, compact=True)
