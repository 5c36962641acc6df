"""`discod-signaling serve`: the node as a process. Mounted by the discod command as `discod signaling`."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
import time
from pathlib import Path

import click
import msgspec
import trio

from discod.errors import UsageError, UserError
from discod.identity import show_id
from discod.identity.links import DEFAULT_PORT
from signaling.depot import Depot
from signaling.limits import DEFAULTS, Limits, set_limits
from signaling.lobby import Lobby
from signaling.server import node_context, node_key, open_listeners, run_node

LIMITS_HELP = "Set one of the limits: " + ", ".join(
    f"{name.replace('_', '-')} ({value:_})" for name, value in msgspec.structs.asdict(DEFAULTS).items()
)


@click.group(name="signaling")
def main() -> None:
    """The signaling node: introduces peers and relays ciphertext; it never sees data, updates only if it hosts them."""


@main.command()
@click.option("--listen", default=f":{DEFAULT_PORT}", show_default=True, metavar="[HOST]:PORT", help="Port 0: any.")
@click.option("--home", type=click.Path(path_type=Path), default=None, help="Where its key is kept.")
@click.option("--plain", is_flag=True, help="No TLS: for loopback, a LAN, or behind a proxy.")
@click.option("--no-relay", is_flag=True, help="Introduce peers, but carry no bytes for them.")
@click.option("--federated", is_flag=True, help="Host federated buffers too: this node then sees each update.")
@click.option("--limit", "changes", multiple=True, metavar="NAME=NUMBER", help=LIMITS_HELP)
@click.option("--json", "as_json", is_flag=True, help="Say where it listens as one line of JSON.")
def serve(
    listen: str,
    home: Path | None,
    plain: bool,
    no_relay: bool,
    federated: bool,
    changes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run a signaling node until it is stopped."""
    try:
        limits = set_limits(DEFAULTS, changes)
        trio.run(_serve, listen, home or _default_home(), plain, not no_relay, federated, limits, as_json)
    except UserError as error:
        _complain(error, as_json)
        sys.exit(int(error.exit))


async def _serve(
    listen: str, home: Path, plain: bool, relay: bool, federated: bool, limits: Limits, as_json: bool
) -> None:
    host, port = _parse_listen(listen)
    identity = node_key(home)
    context = None if plain else node_context(identity, home)
    listeners = await open_listeners(host, port)
    lobby = Lobby(identity, lambda: secrets.token_bytes(16), relay=relay, settable=limits)
    depot = Depot(identity, home, time.time, lobby.published) if federated else None
    async with trio.open_nursery() as nursery:
        await nursery.start(run_node, lobby, listeners, context, depot)
        quota = limits.relay_bytes_per_minute if relay else None
        _announce(identity.peer_id, listeners[0].socket.getsockname(), host, plain, quota, federated, as_json)
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                break
        nursery.cancel_scope.cancel()


def _announce(
    key: bytes, bound: tuple[str, int], host: str, plain: bool, quota: int | None, federated: bool, as_json: bool
) -> None:
    shown = host or "0.0.0.0"  # noqa: S104  (what is shown, not what is bound)
    address = f"[{shown}]:{bound[1]}" if ":" in shown else f"{shown}:{bound[1]}"
    url = f"{'ws' if plain else 'wss'}://{address}"
    if as_json:
        data: dict[str, object] = {
            "listen": address,
            "url": url,
            "key": show_id(key),
            "key_hex": key.hex(),
            "relay": quota is not None,
        }
        data["federated"] = federated
        click.echo(json.dumps({"schema": "discod.signaling/1", "ok": True, "data": data}))
    else:
        carried = "relay off" if quota is None else f"relay on ({quota / 1e6:g} MB/min/peer)"
        tls = "no TLS" if plain else "own key, pinned by the links"
        click.echo(f"signaling {url} ({tls})  {carried}   /healthz")
        click.echo(f"key {show_id(key)}")
        if federated:
            click.echo("hosts federated buffers of tasks that name this key: it sees each update that is sent to them")
        click.echo(
            "on a peer: discod mesh create NAME --signaling THIS_HOST" + ("" if bound[1] == 8765 else f":{bound[1]}")
        )
    sys.stdout.flush()


def _parse_listen(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"{text!r} is no address to listen on", "write HOST:PORT, or :PORT for all interfaces")
    return host.strip("[]"), int(port)


def _default_home() -> Path:
    if home := os.environ.get("DISCOD_HOME"):
        return Path(home) / "signaling"
    state = os.environ.get("STATE_DIRECTORY") or os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(str(state).split(":")[0]) / "discod-signaling"


def _complain(error: UserError, as_json: bool) -> None:
    if as_json:
        fields = {"code": error.code, "message": error.message, "hint": error.hint, "exit": int(error.exit)}
        click.echo(json.dumps({"schema": "discod.error/1", "ok": False, **fields}))
    else:
        click.echo(f"error: {error.message}" + (f"\n  try: {error.hint}" if error.hint else ""), err=True)


if __name__ == "__main__":
    main()
