"""The home a verb works on: its paths, its configuration, its identity, and the daemon that runs in it.

A verb asks in this order, which is also the order of its errors: `config` (64), its own arguments (65, 66), `identity`
(10), `started` (3).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from discod.cli import output
from discod.client import Client, ref
from discod.errors import Exit, NoIdentity, NotRunning, TimedOut, UsageError, UserError

if TYPE_CHECKING:
    from discod.config import Config, Paths
    from discod.identity import Identity
    from discod.store import Store

START_SECONDS = 30.0  # a cold disk and a busy machine included
LOOK_SECONDS = 0.05
LOG_LINES = 6

quoted = ref


def paths() -> Paths:
    """Where this home keeps its files."""
    from discod.config import find_paths

    return find_paths(output.options().home)


def config() -> Config:
    """The configuration in force. Raises: BadConfig."""
    from discod.config import load_config

    return load_config(paths().config)


def has_identity() -> bool:
    """Whether this home has an identity, good or bad."""
    return paths().identity.exists()


def identity() -> Identity:
    """This home's identity. Raises: NoIdentity, PermissionProblem."""
    from discod.identity import Identity

    if not has_identity():
        raise NoIdentity("this home has no identity yet", "discod init --name NAME")
    return Identity.load(paths().identity)


def ensure_identity(name: str | None) -> Identity:
    """This home's identity; made, with a configuration file, if there is none (`name` None: configured, or the host's).

    Raises: UsageError for an impossible name, PermissionProblem.
    """
    from discod.identity import Identity

    if has_identity():
        return identity()
    chosen = name or config().name or host_name()
    check_name(chosen)
    places = paths()
    places.create()
    made = Identity.create(places.identity)
    _write_config(places, chosen)
    return made


def host_name() -> str:
    """A name for a peer whose user gave none."""
    import socket

    return socket.gethostname().partition(".")[0] or "peer"


def check_name(name: str) -> None:
    """Raises: UsageError when `name` cannot be shown to others."""
    from discod.identity import is_name

    if not is_name(name):
        raise UsageError(f"{name!r} cannot be a name", "1 to 64 printable characters, no spaces at the ends")


def _write_config(places: Paths, name: str) -> None:
    from discod.config import write_template

    if not write_template(places.config, name) and config().name != name:
        output.warn(f'{places.config} exists and is kept; write name = "{name}" into it for others to see that name')


@contextmanager
def store() -> Iterator[Store]:
    """This home's state directory, for verbs that need no daemon; safe beside a running one."""
    from discod.store import open_store

    places = paths()
    places.create()
    with closing(open_store(places.state)) as opened:
        yield opened


def client() -> Client:
    """The daemon of this home, whether or not one runs. Its calls raise NotRunning when none does."""
    return Client(paths().socket, output.options().timeout)


def started() -> Client:
    """The daemon of this home; started in the background, in one line, when none runs.

    Raises: NoIdentity, NotRunning with --no-start, and what the new daemon ended with.
    """
    found = client()
    if found.answers():
        return found
    identity()
    if output.options().no_start:
        raise NotRunning("discod is not running, and --no-start forbids starting it", "discod up")
    launch(found, START_SECONDS)
    output.note("started discod (stop: discod down)")
    return found


def launch(found: Client, wait_seconds: float) -> int:
    """Start a daemon that outlives this process and wait until it answers; its process id.

    Raises: UserError with the daemon's exit code and last words when it ends, TimedOut when it does not answer.
    """
    places = paths()
    places.create()
    log = places.state / "daemon.log"
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as out:
        process = subprocess.Popen(  # noqa: S603 - this interpreter, and words of our own
            [sys.executable, "-P", "-m", "discod", "daemon", *(["--home", str(places.home)] if places.home else [])],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    deadline = time.monotonic() + wait_seconds
    while time.monotonic() < deadline:
        if found.answers():
            return process.pid
        if process.poll() not in (None, Exit.ALREADY_RUNNING):  # then another verb just started one: wait for that
            raise _ended(process.returncode, log)
        time.sleep(LOOK_SECONDS)  # nothing tells when another process begins to listen
    raise TimedOut(f"the daemon did not answer within {wait_seconds:g} s", f"look into {log}")


def _ended(code: int, log: Path) -> UserError:
    words = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
    exit_code = Exit(code) if code in set(Exit) else Exit.FAILED
    return UserError(f"the daemon ended while it started:\n{words}", f"all of it: {log}", exit=exit_code)


def check_invite(link: str) -> None:
    """Raises: BadInvite when `link` is no invite link."""
    from discod.identity import parse_link

    parse_link(link)


def query(**values: str | None) -> str:
    """The values that are there as a query string."""
    from urllib.parse import urlencode

    found = {name: value for name, value in values.items() if value is not None}
    return f"?{urlencode(found)}" if found else ""


def only_mesh(found: Client) -> dict[str, Any]:
    """The one mesh of this home. Raises: UserError when there is none or more than one."""
    meshes: list[dict[str, Any]] = found.get("/v1/meshes")
    if len(meshes) == 1:
        return meshes[0]
    if not meshes:
        hint = "discod join, or discod mesh create NAME --signaling HOST"
        raise UserError("this peer is in no mesh yet", hint, code="no-mesh")
    names = ", ".join(mesh["name"] for mesh in meshes)
    raise UserError(f"which mesh: {names}?", f"discod mesh show {meshes[0]['name']}", code="ambiguous", exit=Exit.USAGE)
