"""The demo's play: what people on machines of their own would type, in their order, each in a home of their own.

    signal   signaling serve
    each     init · data add · daemon            (its own part of the sample; nobody else reads it)
    first    mesh create · invite · task publish
    others   join                                (the link goes from hand to hand)
    each     train, and the events of its daemon until its run ends
    each     down

Cancellation leaves nothing: the processes belong to the Cast.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import trio

from discod.client import Client
from discod.config import find_paths
from discod.demo.processes import Cast, command, until
from discod.errors import UserError

NAMES = ("clinic-a", "lab-b", "home-c")
MESH, ALIAS = "demo", "scans"
CONFIG = 'schema = 1\n\n[network]\nlisten = "127.0.0.1:0"\n'
KEY = re.compile(r"^key (\S+)$", re.MULTILINE)
LISTENING = re.compile(r"(wss?://)\S*?:(\d+)")


class Peer(NamedTuple):
    """One peer of the play: where it lives, what it trains on, how its daemon is asked."""

    name: str
    home: Path
    sample: str
    client: Client

    async def type(self, *words: str, stdin: str = "") -> Any:
        """`discod WORDS` in this peer's home; its result."""
        return await command(self.home, *words, stdin=stdin)


def peers(root: Path, task: str, count: int) -> list[Peer]:
    """The peers, each with its part of the task's sample."""
    names = [*NAMES[:count], *(f"peer-{n}" for n in range(len(NAMES) + 1, count + 1))]
    homes = [root / name for name in names]
    return [
        Peer(name, home, f"{task}:{n}/{count}", Client(find_paths(home).socket))
        for n, (name, home) in enumerate(zip(names, homes, strict=True), 1)
    ]


async def open_signaling(cast: Cast, root: Path, *, hosting: bool = False) -> tuple[str, str]:
    """Start the signaling node; its address as `mesh create --signaling` takes it, and its key."""
    home, log = root / "signal", root / "signal.log"
    home.mkdir()
    flags = ["--federated"] if hosting else []
    process = await cast.start(["signaling", "serve", "--listen", "127.0.0.1:0", "--home", str(home), *flags], log)
    await until(lambda: KEY.search(log.read_text()) is not None, process, "the signaling node", log)
    found, key = LISTENING.search(log.read_text()), KEY.search(log.read_text())
    assert found is not None
    assert key is not None
    return f"{found[1]}127.0.0.1:{found[2]}", key[1]


async def settle(cast: Cast, peer: Peer) -> int:
    """Identity, data and daemon of one peer; the number of its rows."""
    peer.home.mkdir(mode=0o700)
    (peer.home / "config.toml").write_text(CONFIG)
    await peer.type("init", "--name", peer.name)
    added = await peer.type("data", "add", ALIAS, "--sample", peer.sample)
    log = peer.home / "daemon.log"
    process = await cast.start(["daemon", "--home", str(peer.home)], log)
    await until(peer.client.answers, process, f"the daemon of {peer.name}", log)
    return int(added["rows"])


async def meet(crew: list[Peer], signaling: str, task_file: Path) -> None:
    """One mesh with all of them in it, and the task published to it."""
    first, *others = crew
    await first.type("mesh", "create", MESH, "--signaling", signaling)
    invite = await first.type("invite", MESH, "--uses", str(len(others)))
    async with trio.open_nursery() as nursery:
        for peer in others:
            nursery.start_soon(_join, peer, invite["link"])
        nursery.start_soon(_publish, first, task_file)


async def _join(peer: Peer, link: str) -> None:
    await peer.type("join", "-", stdin=link)


async def _publish(peer: Peer, task_file: Path) -> None:
    await peer.type("task", "publish", str(task_file))


async def accept(peer: Peer, task: str) -> int:
    """The peer says yes to the task; its run's number. The task may still be on its way to the peer."""
    with trio.fail_after(30):
        while True:
            try:
                run = await peer.type("train", task, "--data", ALIAS, "--yes", "--no-follow")
            except UserError as error:
                if error.code != "unknown-task":
                    raise
                await trio.sleep(0.1)
            else:
                return int(run["id"])


class Ears:
    """The events of all daemons, one thread each, in the order they came."""

    def __init__(self, crew: list[Peer]) -> None:
        self._heard: SimpleQueue[tuple[str, dict[str, Any]]] = SimpleQueue()
        for peer in crew:
            threading.Thread(target=self._listen, args=(peer,), daemon=True).start()

    def _listen(self, peer: Peer) -> None:
        try:
            for event in peer.client.events():
                self._heard.put((peer.name, event))
        except UserError as error:
            self._heard.put((peer.name, {"type": "daemon.lost", "why": error.message}))
        else:
            self._heard.put((peer.name, {"type": "daemon.lost", "why": "it ended"}))

    def heard(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """What came since the last call, without waiting."""
        while True:
            try:
                yield self._heard.get_nowait()
            except Empty:
                return
