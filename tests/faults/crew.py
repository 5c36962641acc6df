"""Whole daemons as processes, to be killed: homes in a short directory, a signaling node, and what the daemons say.

Workers are stand-ins. Nothing here sleeps through a fault: `until` looks again whenever a daemon says something, and,
for what other processes do without a word, a few times a second.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from discod.client import Client
from discod.config import find_paths
from discod.daemon.switches import ENGINE, STOP
from discod.demo import keeper
from discod.demo.place import temporary_root
from discod.errors import UserError
from discod.identity import Identity
from discod.store import DatasetRow, SpentRow, open_store
from discod.train.datasets import sample
from discod.train.task import AggregationSpec, RoundSpec, TaskSpec
from discod.train.taskfile import dump_task
from discod.train.templates import builtin_task

LOOK_SECONDS = 0.05
PATIENCE_SECONDS = 45.0  # for anything that is waited for; a round takes less than one
FLOATS, SECONDS_PER_BATCH, BATCHES = 5000, 0.1, 2
STAND_IN = f"stand-in:{FLOATS}:{SECONDS_PER_BATCH}"
NODE = (sys.executable, "-m", "discod", "signaling")

Where = Callable[[str], Sequence[str]]  # what to put before a command that runs on the machine of this name


def here(name: str) -> Sequence[str]:
    """Everybody lives on this machine, with nothing between them."""
    return ()


def a_task(aggregator: Literal["mean", "secure"] = "mean", **rule: Any) -> TaskSpec:
    """A task with short rounds of at least two peers."""
    spec = builtin_task("digits", 2)
    chosen = msgspec.structs.replace(RoundSpec(rounds=16, round_duration=BATCHES, min_peers=2), **rule)
    return msgspec.structs.replace(spec, round=chosen, aggregation=AggregationSpec(aggregator), target=None)


class Process:
    """A child in a session of its own; its number goes to the keeper, so that it ends however this process ends."""

    def __init__(self, crew: Crew, words: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        self.log = log
        with log.open("ab") as out:
            self.child = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **env},
            )
        crew.keep(self)

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def runs(self) -> bool:
        return self.child.poll() is None

    @property
    def is_stopped(self) -> bool:
        """Whether it waits for SIGCONT."""
        return status_of(self.pid) == "T"

    def end(self, number: signal.Signals = signal.SIGKILL, seconds: float = PATIENCE_SECONDS) -> int:
        """Send a signal, wait until the process is gone; its exit status."""
        if self.runs:
            self.child.send_signal(number)
        return self.child.wait(seconds)


class Peer:
    """A home and, while it runs, its daemon; `heard` are the events of its present life."""

    def __init__(self, crew: Crew, name: str, listen: str, part: str) -> None:
        self.crew, self.name, self.home, self.part = crew, name, crew.root / name, part
        self.home.mkdir(mode=0o700, exist_ok=True)
        self.paths = find_paths(self.home)
        self.client = Client(self.paths.socket, timeout=20)
        self.heard: list[dict[str, Any]] = []
        self.lives: list[list[dict[str, Any]]] = []  # what was heard in each, the present one last
        self.daemon: Process | None = None
        self._prepare(listen)

    def _prepare(self, listen: str) -> None:
        self.paths.create()
        self.paths.config.write_text(f'schema = 1\nname = "{self.name}"\n[network]\nlisten = "{listen}"\n')
        Identity.create(self.paths.identity)
        rows = sample(self.part)
        with closing(open_store(self.paths.state)) as store:
            store.save_dataset(DatasetRow("scans", None, self.part, rows.content_hash, len(rows), "", time.time()))

    @property
    def process(self) -> Process:
        assert self.daemon is not None
        return self.daemon

    def launch(self, *, stop: str = "") -> None:
        """Start its daemon, which stops itself at the phase `stop`."""
        env = {ENGINE: self.crew.engine, STOP: stop}
        words = [*self.crew.where(self.name), *self.crew.words, "daemon", "--home", str(self.home)]
        self.daemon, self.heard = Process(self.crew, words, self.home / "daemon.log", env), []
        self.lives.append(self.heard)

    def start(self, *, stop: str = "") -> None:
        """Start its daemon and listen to it once it answers."""
        if self.daemon is None or not self.daemon.runs:
            self.launch(stop=stop)
        daemon = self.process
        self.crew.until(lambda: not daemon.runs or self.client.answers(), f"{self.name} answers")
        assert daemon.runs, tail(daemon.log)
        threading.Thread(target=self._listen, args=(self.heard,), daemon=True).start()

    def _listen(self, heard: list[dict[str, Any]]) -> None:
        try:
            for event in self.client.events():
                with self.crew.changed:
                    heard.append(event)
                    self.crew.changed.notify_all()
        except UserError:
            return  # it was killed

    def all(self, *types: str, **fields: Any) -> list[dict[str, Any]]:
        """The events of these types with these fields that its present daemon has told."""
        return [e for e in list(self.heard) if e["type"] in types and all(e.get(k) == v for k, v in fields.items())]

    @property
    def round(self) -> int:
        """The last round whose certified state it said to hold, in its present life."""
        return max((event["round"] for event in self.all("round.certified")), default=0)

    @property
    def ended(self) -> bool:
        return bool(self.all("run.finished", "run.failed"))

    @property
    def model(self) -> str:
        """SHA-256 of its finished model."""
        (model,) = self.client.get("/v1/models")
        return str(model["hash"])

    @property
    def run(self) -> dict[str, Any]:
        """Its last run as the control API shows it."""
        shown: dict[str, Any] = self.client.get("/v1/runs")[-1]
        return shown

    def spent(self, task: TaskSpec) -> list[SpentRow]:
        """The records of the updates it has sent."""
        with closing(open_store(self.paths.state)) as store:
            return store.spent(task.id)

    def peer(self, name: str) -> dict[str, Any]:
        """Another peer as this one sees it."""
        shown: dict[str, Any] = self.client.get(f"/v1/peers/{name}")
        return shown

    def join(self, link: str) -> None:
        """Join by an invite link; return when those present are linked."""
        op = self.client.post("/v1/join", {"link": link})
        self.client.wait_for_op(op["op"], op["since"])

    def accept(self, task: TaskSpec) -> None:
        """Take part in a task that this peer may not have heard of yet."""

        def known() -> bool:
            return any(shown["name"] == task.name for shown in self.client.get("/v1/tasks"))

        self.crew.until(known, f"{self.name} knows the task")
        self.client.post(f"/v1/tasks/{task.name}/accept", {"data": "scans"})


class Crew:
    """Everything that one test starts."""

    def __init__(self, root: Path, engine: str, where: Where = here) -> None:
        self.root, self.engine, self.where = root, engine, where
        self.peers, self.url = dict[str, Peer](), ""
        self.words: Sequence[str] = (sys.executable, "-m", "discod")  # what a daemon is started by
        self.changed = threading.Condition()
        self.node: Process | None = None
        self._processes: list[Process] = []
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", keeper.__file__, str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def keep(self, process: Process) -> None:
        """End this process with the test, or with the process that runs the test."""
        self._processes.append(process)
        assert self._keeper.stdin is not None
        self._keeper.stdin.write(f"{process.pid}\n".encode())
        self._keeper.stdin.flush()

    def end(self) -> None:
        """End everything: ask, wait, insist."""
        for process in self._processes:
            keeper.tell(process.pid, signal.SIGCONT)
            keeper.tell(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + keeper.GRACE_SECONDS
        for process in self._processes:
            try:
                process.child.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                keeper.tell(process.pid, signal.SIGKILL)
                process.child.wait()
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        self._keeper.wait()

    def until(self, done: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until `done()`, asked again whenever a daemon says something. Raises: AssertionError with its words."""
        deadline = time.monotonic() + seconds
        while not done():
            with self.changed:
                self.changed.wait(LOOK_SECONDS)
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds:g} s: {what}\n{self.story()}")

    def story(self) -> str:
        """The last words of everybody."""
        lines = []
        for peer in self.peers.values():
            lines += [f"-- {peer.name}"] + [json.dumps(event) for event in peer.heard[-25:]]
            lines += [f"-- log of {peer.name}", tail(peer.home / "daemon.log")]
        return "\n".join(lines)

    def open_node(self, listen: str = "127.0.0.1:0", words: Sequence[str] = NODE, flags: Sequence[str] = ()) -> None:
        """Start the signaling node, again with the key and the port that it had if it was started before."""
        home, log = self.root / "node", self.root / "node.log"
        log.unlink(missing_ok=True)
        serve = ["serve", "--listen", listen, "--home", str(home), "--json", *flags]
        self.node = node = Process(self, [*self.where("node"), *words, *serve], log, {})
        self.until(lambda: not node.runs or log.read_bytes().endswith(b"\n"), "the signaling node says where it is")
        assert node.runs, tail(log)
        self.url = json.loads(log.read_text().splitlines()[0])["data"]["url"]

    def add(self, name: str, listen: str = "127.0.0.1:0", part: str = "") -> Peer:
        """A new home; nothing runs in it yet."""
        peer = self.peers[name] = Peer(self, name, listen, part or f"digits:{len(self.peers) + 1}/4")
        return peer

    def meet(self) -> None:
        """Start all daemons; the first makes a mesh, the others join it."""
        first, *others = self.peers.values()
        starting = [peer for peer in self.peers.values() if peer.daemon is None]
        for peer in starting:
            peer.launch()
        for peer in starting:
            peer.start()
        first.client.post("/v1/meshes", {"name": "ward", "signaling": self.url})
        link = self.invite(len(others))
        for peer in others:
            peer.join(link)
        self.until(lambda: all(self.sees_all(peer) for peer in self.peers.values()), "everybody is linked")

    def invite(self, uses: int) -> str:
        first = next(iter(self.peers.values()))
        return str(first.client.post("/v1/invites", {"uses": uses})["link"])

    def sees_all(self, peer: Peer) -> bool:
        shown = peer.client.get("/v1/peers")
        return len(shown) == len(self.peers) and all(other["linked"] or other["self"] for other in shown)

    def train(self, task: TaskSpec) -> None:
        """The first publishes a task, everybody accepts it."""
        next(iter(self.peers.values())).client.post("/v1/tasks", {"toml": dump_task(task)})
        for peer in self.peers.values():
            peer.accept(task)

    def reach(self, number: int, *names: str) -> None:
        """Wait until these peers hold the certified state of a round."""
        peers = [self.peers[name] for name in names]
        self.until(lambda: all(peer.round >= number or peer.ended for peer in peers), f"{names} hold round {number}")

    def finish(self) -> str:
        """Wait until all have finished; the one hash of their models. No round was certified twice."""
        peers = list(self.peers.values())
        self.until(lambda: all(peer.ended for peer in peers), "all have finished")
        for peer in peers:
            assert peer.all("run.finished"), self.story()
        hashes = {peer.model for peer in peers}
        assert len(hashes) == 1, hashes
        assert hashes != {""}
        lives = [heard for peer in peers for heard in peer.lives]
        told = {(e["round"], e["state"]) for heard in lives for e in heard if e["type"] == "round.certified"}
        assert len(told) == len({number for number, _ in told}), sorted(told)
        return hashes.pop()


@contextmanager
def open_crew(engine: str = STAND_IN, where: Where = here) -> Iterator[Crew]:
    """A crew whose homes and processes are gone after the block."""
    with temporary_root() as root:
        crew = Crew(root, engine, where)
        try:
            yield crew
        finally:
            crew.end()


def status_of(pid: int) -> str:
    """The letter of a process's state (R, S, T, Z ...); empty when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[0]


def children_of(pid: int) -> list[int]:
    """The child processes of a process, whichever of its threads started them."""
    return [int(word) for file in Path(f"/proc/{pid}/task").glob("*/children") for word in file.read_text().split()]


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
