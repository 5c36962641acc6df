"""The daemons of bench round: set up as people would, followed to the end of their runs, weighed.

A home and a process for each peer and one signaling node (discod/demo/play.py), stand-ins in place of workers. The
daemons say by events when an update is ready and when a certified state is held, and count what their links send.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import trio

from discod import ring
from discod.client import error_from
from discod.demo import play
from discod.demo.place import temporary_root
from discod.demo.processes import Cast, open_cast
from discod.errors import TimedOut, UserError
from discod.train.datasets import SAMPLE_PREFIX, load
from discod.train.standin import TILE, apply_batch
from discod.train.task import AggregationSpec, RoundSpec, TaskSpec
from discod.train.taskfile import dump_task
from discod.train.templates import builtin_task

SAMPLE = "digits"
ENGINE_VARIABLE = "DISCOD_TEST_ENGINE"
BATCHES, SECONDS_PER_BATCH = 4, 0.4  # a round of training: long enough for the roster of a busy machine
STRAGGLE_SECONDS = 60.0  # nobody is left out: a round without somebody is another round
STALL_SECONDS = 180.0  # without any round certified
LOOK_SECONDS = 0.05


def task_for(peers: int, rounds: int, seed: int, aggregator: Literal["mean", "secure"]) -> TaskSpec:
    """The built-in task with short rounds of all peers and without validation rows."""
    spec = builtin_task(SAMPLE, peers)
    return msgspec.structs.replace(
        spec,
        name="bench",
        seed=seed,
        target=None,
        training=msgspec.structs.replace(spec.training, validation_split=0.0),
        round=RoundSpec(rounds, BATCHES, min_peers=peers, straggle_seconds=STRAGGLE_SECONDS),
        aggregation=AggregationSpec(aggregator),
    )


def right_model(task: TaskSpec, samples: Sequence[str], floats: int) -> str:
    """SHA-256 of the joint parameters after all rounds, if every round had an update of every peer.

    Everything is done elementwise and the stand-in repeats its tile, so the vector repeats too: one tile is enough.
    """
    parts = [load(SAMPLE_PREFIX + sample, task.data) for sample in samples]
    d, bound = min(floats, TILE), task.bound
    base, local = np.zeros(d, np.float32), np.empty(d, np.float32)
    words = np.empty(d + 1, np.uint32)
    for number in range(task.rounds):
        codec, total = ring.Codec(len(parts), bound), np.zeros(d + 1, np.uint32)
        for part in parts:
            local[:] = base
            for batch in range(number * task.round_duration, (number + 1) * task.round_duration):
                apply_batch(local, task.seed, part.content_hash, batch)
            count = min(len(part), task.batch_size) * task.round_duration
            ring.encode(local, base, codec, ring.weight_word(count, task.weight_cap), words)
            total += words
        bound = ring.apply_mean(base, total, codec, base).next_bound
    return ring.hash_floats(np.resize(base, floats)).hex()


@dataclass
class Notes:
    """What the daemons said: by round the time at which each peer shared its update, and held the certified state."""

    peers: int
    shared: dict[int, dict[str, float]] = field(default_factory=dict)
    certified: dict[int, dict[str, float]] = field(default_factory=dict)
    opened: dict[int, dict[str, float]] = field(default_factory=dict)  # secure: its roster stands
    started: dict[int, dict[str, float]] = field(default_factory=dict)  # secure: keys and shares are exchanged
    finished: set[str] = field(default_factory=set)
    lost: int = 0

    def take(self, name: str, event: dict[str, Any]) -> None:
        """Note one event.  Raises: UserError when a run or a daemon has ended too early."""
        match event["type"]:
            case "round.shared":
                self.shared.setdefault(event["round"], {})[name] = event["time"]
            case "round.opened":
                self.opened.setdefault(event["round"], {})[name] = event["time"]
            case "round.started":
                self.started.setdefault(event["round"], {})[name] = event["time"]
            case "round.certified":
                self.certified.setdefault(event["round"], {})[name] = event["time"]
            case "round.lost":
                self.lost += 1
            case "run.finished":
                self.finished.add(name)
            case "run.failed":
                error = error_from(event["error"])
                raise UserError(f"{name}: {error.message}", error.hint, code=error.code, exit=error.exit)
            case "daemon.lost":
                raise UserError(f"the daemon of {name} is gone: {event['why']}", "run it again")

    def rounds(self) -> Iterator[float]:
        """Seconds of each round that all peers hold, from the first on."""
        for number in range(1, len(self.certified) + 1):
            if len(self.certified.get(number, {})) == len(self.shared.get(number, {})) == self.peers:
                yield max(self.certified[number].values()) - max(self.shared[number].values())

    def keys(self) -> list[float]:
        """Seconds from the last roster to the last Start of each round."""
        both = [(self.opened.get(n, {}), started) for n, started in sorted(self.started.items())]
        return [max(started.values()) - max(opened.values()) for opened, started in both if opened and started]


@dataclass(frozen=True)
class Outcome:
    """What one run of the daemons gave."""

    seconds: list[float]
    keys: list[float]
    bytes_up: dict[str, float]  # by kind, per peer and round
    idle_mb: float | None
    peak_mb: float | None
    models: list[str]
    right: str
    lost: int


async def measure(task: TaskSpec, peers: int, floats: int) -> Outcome:
    """Set the daemons up, let them train the task, look at what they hold.

    Raises: UserError as whatever failed reported it. Cancelled: no process and no home is left.
    """
    os.environ[ENGINE_VARIABLE] = f"stand-in:{floats}:{SECONDS_PER_BATCH}"
    with temporary_root() as root:
        async with open_cast(root) as cast:
            crew = play.peers(root, SAMPLE, peers)
            await set_up(cast, crew, root, task)
            pids = [(await ask(peer, "/v1/status"))["pid"] for peer in crew]
            idle = [memory_mb(pid, "VmRSS") for pid in pids]
            notes, runs, bytes_up = await train(crew, task)
            shown = [await ask(peer, f"/v1/runs/{runs[peer.name]}") for peer in crew]
            peak = [memory_mb(pid, "VmHWM") for pid in pids]
    idle_mb, peak_mb = max(zip(idle, peak, strict=True), key=lambda pair: pair[1] or 0.0)
    return Outcome(
        list(notes.rounds()),
        notes.keys(),
        bytes_up,
        idle_mb,
        peak_mb,
        [run["model"]["hash"] for run in shown],
        right_model(task, [peer.sample for peer in crew], floats),
        notes.lost,
    )


async def set_up(cast: Cast, crew: list[play.Peer], root: Path, task: TaskSpec) -> None:
    """Everybody is there, in one mesh, and the task is published."""
    signaling, _ = await play.open_signaling(cast, root)
    for peer in crew:  # not side by side: a Cast cannot start two processes at once
        await play.settle(cast, peer)
    file = root / f"{task.name}.toml"
    file.write_text(dump_task(task))
    await play.meet(crew, signaling, file)


async def train(crew: list[play.Peer], task: TaskSpec) -> tuple[Notes, dict[str, int], dict[str, float]]:
    """All accept, and their runs go to the end: what was heard, the runs' numbers, bytes up per peer and round."""
    runs: dict[str, int] = {}
    ears, notes = play.Ears(crew), Notes(len(crew))
    before = await traffic(crew)

    async def accept(peer: play.Peer) -> None:
        runs[peer.name] = await play.accept(peer, task.name)

    async with trio.open_nursery() as nursery:
        for peer in crew:
            nursery.start_soon(accept, peer)
        await until(lambda: len(notes.certified.get(1, {})) == len(crew), ears, notes)
        if task.rounds > 1:
            before = await traffic(crew)
        await until(lambda: len(notes.finished) == len(crew), ears, notes)
    grown = await traffic(crew) - before
    share = max(1, task.rounds - 1) * len(crew)
    return notes, runs, {kind: count / share for kind, count in grown.items()}


async def until(done: Callable[[], bool], ears: play.Ears, notes: Notes) -> None:
    """Listen to the daemons until `done()`.  Raises: TimedOut when no round is certified for too long."""
    known, deadline = len(list(notes.rounds())), time.monotonic() + STALL_SECONDS
    while not done():
        for name, event in ears.heard():
            notes.take(name, event)
        seconds = list(notes.rounds())
        for number in range(known, len(seconds)):
            say(f"  round {number + 1}: {seconds[number] * 1e3:.1f} ms")
        if len(seconds) > known:
            known, deadline = len(seconds), time.monotonic() + STALL_SECONDS
        if time.monotonic() > deadline:
            raise TimedOut(f"no round was certified for {STALL_SECONDS:.0f} s", "is the machine busy?")
        await trio.sleep(LOOK_SECONDS)


async def traffic(crew: list[play.Peer]) -> Counter[str]:
    """Bytes that all links of all peers have sent so far, by kind."""
    total: Counter[str] = Counter()
    for peer in crew:
        for other in await ask(peer, "/v1/peers"):
            total.update(other["bytes_up_by_kind"])
    return total


async def ask(peer: play.Peer, route: str) -> Any:
    return await trio.to_thread.run_sync(peer.client.get, route)


def memory_mb(pid: int, field: str) -> float | None:
    """A field of /proc/PID/status in MB of 10^6 bytes; None where there is no /proc."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{field}:")), None)


def say(text: str) -> None:
    """What is not the result goes to stderr."""
    print(text, file=sys.stderr, flush=True)
