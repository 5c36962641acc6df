"""`discod-signaling serve`: the node as a process. Mounted by the discod command as `discod signaling`."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import click
import msgspec
import trio

from discod import logs
from discod.errors import UsageError, UserError
from discod.identity import Identity, show_id
from discod.identity.links import DEFAULT_PORT
from signaling.certificates import parse_pair
from signaling.limits import DEFAULTS, Limits
from signaling.process import LOOPBACK, Plan, run

LEVELS = ("debug", "info", "warning", "error")
LIMITS_HELP = "Set one of the limits: " + ", ".join(
    f"{name.replace('_', '-')} ({value:_})" for name, value in msgspec.structs.asdict(DEFAULTS).items()
)


@click.group(name="signaling")
def main() -> None:
    """The signaling node: introduces peers and relays ciphertext; it never sees data, updates only if it hosts them."""


@main.command()
@click.option(
    "--listen", metavar="[HOST]:PORT", help=f"Default :{DEFAULT_PORT}, behind a proxy 127.0.0.1; port 0: any."
)
@click.option("--home", type=click.Path(path_type=Path), default=None, help="Where its key and its buffers are kept.")
@click.option(
    "--tls", metavar="CERT,KEY", help="Certificate files (PEM) in place of its own key; read again on SIGHUP."
)
@click.option("--behind-proxy", is_flag=True, help="No TLS: a proxy on this machine has the certificate.")
@click.option("--proxy", "proxies", multiple=True, metavar="ADDRESS", help="The proxy comes from here, not loopback.")
@click.option("--plain", is_flag=True, help="No TLS: for loopback or a LAN.")
@click.option("--no-relay", is_flag=True, help="Introduce peers, but carry no bytes for them.")
@click.option("--federated", is_flag=True, help="Host federated buffers too: this node then sees each update.")
@click.option("--limit", "changes", multiple=True, metavar="NAME=NUMBER", help=LIMITS_HELP)
@click.option("--limits", "limits_file", type=click.Path(path_type=Path), help="A TOML file; read again on SIGHUP.")
@click.option("--drain", type=click.FloatRange(0, 3600), default=30.0, show_default=True, help="Seconds to stop in.")
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True, help="debug has addresses.")
@click.option("--json", "as_json", is_flag=True, help="Say where it listens as one line of JSON.")
def serve(as_json: bool, log_level: str, **flags: Any) -> None:
    """Run a signaling node until it is stopped."""
    logs.set_up(log_level)
    try:
        plan = _plan(**flags)
        trio.run(run, plan, partial(_announce, plan, as_json))
    except UserError as error:
        _complain(error, as_json)
        sys.exit(int(error.exit))


def _plan(
    listen: str | None,
    home: Path | None,
    tls: str | None,
    behind_proxy: bool,
    proxies: tuple[str, ...],
    plain: bool,
    no_relay: bool,
    federated: bool,
    changes: tuple[str, ...],
    limits_file: Path | None,
    drain: float,
) -> Plan:
    """Raises: UsageError."""
    if (tls is not None) + behind_proxy + plain > 1:
        raise UsageError("--tls, --behind-proxy and --plain exclude each other", "give one, or none for its own key")
    if proxies and not behind_proxy:
        raise UsageError("--proxy means something with --behind-proxy only", "add --behind-proxy")
    for proxy in proxies:
        try:
            ip_address(proxy)
        except ValueError:
            raise UsageError(f"--proxy cannot be {proxy!r}", "write the IP address it connects from") from None
    host, port = _parse_listen(listen or (f"127.0.0.1:{DEFAULT_PORT}" if behind_proxy else f":{DEFAULT_PORT}"))
    return Plan(
        host,
        port,
        home or _default_home(),
        parse_pair(tls) if tls is not None else None,
        plain or behind_proxy,
        (frozenset(proxies) or LOOPBACK) if behind_proxy else frozenset(),
        not no_relay,
        federated,
        limits_file,
        changes,
        drain,
    )


def _announce(plan: Plan, as_json: bool, identity: Identity, bound: tuple[str, int], limits: Limits) -> None:
    key, shown = identity.peer_id, plan.host or "0.0.0.0"  # noqa: S104  (what is shown, not what is bound)
    address = f"[{shown}]:{bound[1]}" if ":" in shown else f"{shown}:{bound[1]}"
    url = f"{'ws' if plan.plain else 'wss'}://{address}"
    if as_json:
        data: dict[str, object] = {"listen": address, "url": url, "key": show_id(key), "key_hex": key.hex()}
        data |= {"relay": plan.relay, "federated": plan.federated}
        click.echo(json.dumps({"schema": "discod.signaling/1", "ok": True, "data": data}))
    else:
        quota = limits.relay_bytes_per_minute / 1e6
        carried = f"relay on ({quota:g} MB/min/peer)" if plan.relay else "relay off"
        click.echo(f"signaling {url} ({_tls(plan)})  {carried}   /healthz  /metrics")
        click.echo(f"key {show_id(key)}")
        if plan.federated:
            click.echo("hosts federated buffers of tasks that name this key: it sees each update that is sent to them")
        port = "" if bound[1] == DEFAULT_PORT else f":{bound[1]}"
        name = "wss://NAME_OF_THE_PROXY:443" if plan.proxies else f"THIS_HOST{port}"
        click.echo(f"on a peer: discod mesh create NAME --signaling {name}")
    sys.stdout.flush()


def _tls(plan: Plan) -> str:
    if plan.proxies:
        return "no TLS here, the proxy has it"
    if plan.plain:
        return "no TLS"
    return "own key, pinned by the links" if plan.pair is None else f"certificate {plan.pair.certificate}"


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
