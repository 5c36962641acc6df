"""Real daemons in one process: sockets on loopback, a real signaling node, stand-in workers, and an exchange alone."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from discod.client import Client
from discod.config import Config, find_paths
from discod.config.settings import Network
from discod.daemon.daemon import Daemon
from discod.daemon.exchanging import ExchangeStatus
from discod.daemon.surroundings import Engine
from discod.identity import Identity
from discod.p2p.mesh import LinkUp
from discod.store import DatasetRow, Header, home_lock, open_store
from discod.train.datasets import infer, load, sample
from discod.train.rounds import JointState
from discod.train.taskfile import dump_task
from discod.train.templates import builtin_task
from discod.train.vector import Vector
from signaling.lobby import Lobby
from signaling.node import open_listeners, run_node

ENGINE = Engine("stand-in", "CPU", 1000)
NETWORK = Network(listen="127.0.0.1:0")
in_thread = trio.to_thread.run_sync


class SoloExchange:
    """Certifies what this peer trained, at once; with `needed` peers only when that many links were seen."""

    def __init__(
        self, *, task: Any, store: Any, initial_parameters: Vector, min_peers: int, needed: int, **_: Any
    ) -> None:
        self.task, self.store, self.needed = task, store, needed
        found = store.load_base(task.id)
        self.parameters = found.vectors["parameters"] if found else initial_parameters
        self.round = found.header.round if found else 0
        self.base = found.header.state if found else bytes(32)
        self.batches = 0
        self.retired = False
        self.links: set[bytes] = set()
        self.enough = trio.Event()
        self.look()

    @property
    def certificate(self) -> bytes:
        return b"certificate" if self.round else b""

    def look(self) -> None:
        if len(self.links) + 1 >= self.needed:
            self.enough.set()

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await trio.sleep_forever()

    async def round_begin(self) -> None:
        await trio.lowlevel.checkpoint()

    async def round_end(self, local: Vector, weight: int) -> JointState:
        await self.enough.wait()
        before, self.parameters = self.base, local.copy()
        self.round += 1
        self.base = sha256(self.parameters.tobytes()).digest()
        self.store.save_candidate(self.task.id, self.base, {"parameters": self.parameters})
        self.store.certify(self.task.id, [Header(self.base, before, self.round, b"certificate")])
        return JointState(self.round, self.parameters, (bytes(32),))

    def set_out(self) -> Vector:
        return self.parameters

    def retire(self, why: str = "finished") -> None:
        self.retired = True

    def members_changed(self) -> None:
        pass

    def round_of(self, peer: bytes) -> None:
        return None

    def status(self) -> ExchangeStatus:
        return ExchangeStatus(ready=frozenset(self.links))

    def deliver(self, event: Any) -> None:
        if isinstance(event, LinkUp):
            self.links.add(event.peer)
            self.look()

    def expect(self, peer: bytes, header: Any) -> None:
        return None


class Home:
    """One daemon's home, its client, and the daemon while it runs."""

    def __init__(self, root: Path, name: str) -> None:
        self.name, self.paths = name, find_paths(root, {"DISCOD_CACHE": str(root / "cache")})
        self.paths.create()
        Identity.create(self.paths.identity)
        self.client = Client(self.paths.socket, timeout=20)
        self.daemon: Daemon | None = None

    def add_data(self, alias: str, reference: str) -> None:
        rows = sample(reference)
        with closing(open_store(self.paths.state)) as store:
            store.save_dataset(DatasetRow(alias, None, reference, rows.content_hash, len(rows), "", time.time()))

    def add_file(self, alias: str, path: Path) -> None:
        rows = load(path, infer(path))
        with closing(open_store(self.paths.state)) as store:
            row = DatasetRow(alias, str(path), None, rows.content_hash, len(rows), "", time.time())
            store.save_dataset(row)

    async def get(self, route: str) -> Any:
        return await in_thread(self.client.get, route)

    async def post(self, route: str, body: dict[str, Any] | None = None) -> Any:
        return await in_thread(self.client.post, route, body or {})

    async def wait_for(self, *types: str, since: int = 0) -> dict[str, Any]:
        """The first event of one of these types above `since`."""

        def first() -> dict[str, Any]:
            return next(iter(self.client.events(since, types)))

        return await in_thread(first, abandon_on_cancel=True)

    @asynccontextmanager
    async def up(
        self, *, needed: int = 1, engine: Engine = ENGINE, network: Network = NETWORK, exchange: Any = None
    ) -> AsyncIterator[Daemon]:
        """The daemon; `exchange` makes the runs' exchanges, SoloExchanges unless it is given."""
        config = Config(name=self.name, network=network)
        with home_lock(self.paths.state), closing(open_store(self.paths.state, locked=True)) as store:
            identity = Identity.load(self.paths.identity)
            make: Any = exchange or partial(SoloExchange, needed=needed)
            self.daemon = Daemon(self.paths, config, identity, store, make, engine)
            async with trio.open_nursery() as nursery:
                await nursery.start(self.daemon.run)
                yield self.daemon
                self.daemon.stop()


@pytest.fixture
def short_root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dd") as name:
        yield Path(name)


@pytest.fixture
def home(short_root: Path) -> Callable[[str], Home]:
    def make(name: str) -> Home:
        (short_root / name).mkdir(mode=0o700)
        return Home(short_root / name, name)

    return make


async def signaling_node(*, task_status: trio.TaskStatus[str]) -> None:
    """A plain signaling node; starts with its URL."""
    lobby = Lobby(Identity.from_seed(b"n" * 32), lambda: secrets.token_bytes(16))
    listeners = await open_listeners("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        await nursery.start(run_node, lobby, listeners, None)
        task_status.started(f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}")
        await trio.sleep_forever()


@pytest.fixture
async def signaling() -> AsyncIterator[str]:
    """The URL of a signaling node."""
    async with trio.open_nursery() as nursery:
        yield await nursery.start(signaling_node)
        nursery.cancel_scope.cancel()


def task_toml(**changes: Any) -> str:
    spec = builtin_task("digits", 2)
    rule = msgspec.structs.replace(spec.round, **({"rounds": 3, "round_duration": 2} | changes))
    return dump_task(msgspec.structs.replace(spec, round=rule, target=None))
