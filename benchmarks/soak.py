"""Do daemons go on whatever happens to them? Rounds of real daemons, with a fault every few seconds.

    python3 run.py bench soak --minutes 10 --peers 5 --aggregator mean|secure [--seed 0]

One daemon for each peer, with stand-ins for workers, and a signaling node, all as processes; every connection passes
through a wire of ours (_wire.py). A seeded schedule (_faults.py) kills them with -9 and starts them again, stops them
for a while, cuts them off, takes the node away, makes a line slow. At the end all is whole, and within HANG_SECONDS all
must tell one state of a new round. What is counted, and how: _verdict.py. Besides the keys that the row must have:

    peers             how many
    forks             states certified beside the main path that were left for it: a certificate that only the dead knew
    recovered_median_s  the middle recovery
    crashes           daemons that ended by themselves, and runs that failed

Exit 1 when hangs, divergent, lost or crashes is not 0, when not all has recovered, or with fewer than 5 faults or 5
rounds a minute; then everything that was told and logged is kept, and stderr says where.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any, Literal

from benchmarks import _arguments as arguments
from benchmarks import _verdict as verdict
from benchmarks._daemons import say
from benchmarks._faults import Fault, schedule, steps
from benchmarks._verdict import Ended, Told
from benchmarks._wire import NODE, WHOLE, Way, Wire
from discod.demo import keeper
from discod.errors import Exit, UserError
from discod.store import DATABASE
from discod.train.task import TaskSpec
from tests.faults.crew import Crew, Peer, a_task, open_crew, tail

AGGREGATORS = ("mean", "secure")
FLOATS, SECONDS_PER_BATCH = 20_000, 0.2
LEAST_PEERS, LEAST_A_MINUTE = 3, 5
ROUNDS = 1 << 20  # more than anybody waits for
DAEMON = str(Path(__file__).with_name("_faulty_daemon.py"))


@dataclass
class Seen:
    """What happened, beside what the daemons tell."""

    began: float = 0.0
    whole: float = 0.0  # when the last fault had ended
    over: float = 0.0
    ended: list[Ended] = field(default_factory=list)
    parents: dict[str, str] = field(default_factory=dict)
    forgotten: list[str] = field(default_factory=list)
    crashes: list[str] = field(default_factory=list)
    done: list[tuple[float, str, Fault]] = field(default_factory=list)


class Soak:
    """A crew on a wire, and what is done to it."""

    def __init__(self, crew: Crew, wire: Wire) -> None:
        self.crew, self.wire, self.seen = crew, wire, Seen()
        self.down: set[str] = set()  # killed by us, not started again yet

    @property
    def peers(self) -> dict[str, Peer]:
        return self.crew.peers

    def told(self) -> list[Told]:
        """Everything that the daemons have told of certified states, of all their lives."""
        return [
            Told(event["time"], peer.name, event["round"], event["state"])
            for peer in self.peers.values()
            for heard in peer.lives
            for event in list(heard)
            if event["type"] == "round.certified"
        ]

    def gather(self, names: str, task: TaskSpec) -> None:
        """Start everything; return when all hold a certified state."""
        crew, wire = self.crew, self.wire
        crew.words = (sys.executable, DAEMON, str(wire.port))
        crew.open_node()
        wire.name(int(crew.url.rpartition(":")[2]), NODE)
        for number, name in enumerate(names):
            crew.add(name, part=f"digits:{number + 1}/{len(names)}")
        crew.meet()
        crew.train(task)
        crew.reach(1, *names)

    def go(self, faults: list[Fault], seconds: float) -> None:
        """Do what the schedule says, for so long; a step that is late makes all that follow late."""
        self.seen.began = time.time()
        late = 0.0
        for at, begins, fault in steps(faults):
            wait = self.seen.began + at + late - time.time()
            time.sleep(max(0.0, wait))
            late += max(0.0, -wait)
            self.look()
            getattr(self, f"{'begin' if begins else 'end'}_{fault.kind}")(fault)
            self._note(begins, fault)
        time.sleep(max(0.0, self.seen.began + seconds - time.time()))

    def settle(self) -> None:
        """All is whole: all tell one state of a new round, or it is a hang."""
        self.seen.whole = time.time()
        above = max(one.round for one in self.told())
        give_up = self.seen.whole + verdict.HANG_SECONDS
        while time.time() < give_up and not verdict.common_state(self.told(), self.peers, self.seen.whole, above):
            time.sleep(0.2)
        self.look()
        self.seen.over = time.time()

    def _note(self, begins: bool, fault: Fault) -> None:
        now = time.time()
        if not begins:
            self.seen.ended.append(Ended(now, fault.victims or tuple(self.peers)))
        self.seen.done.append((now - self.seen.began, "begins" if begins else "ends", fault))
        high = {peer.name: peer.round for peer in self.peers.values()}
        what = f"{fault.kind} {' '.join(fault.victims)}".strip()
        say(f"  {now - self.seen.began:6.1f} s  {what:13} {'begins' if begins else 'ends':6}  rounds {high}")

    # -- the faults

    def begin_kill(self, fault: Fault) -> None:
        (name,) = fault.victims
        peer = self.peers[name]
        self.down.add(name)
        peer.process.end()
        self.read_disk(peer)
        last = max((one for one in self.told() if one.peer == name), default=None)
        base = base_of(peer)
        if verdict.forgotten(last, base, self.seen.parents):
            self.seen.forgotten.append(f"{name} told {last}; on its disk is {base or 'nothing'}")

    def end_kill(self, fault: Fault) -> None:
        (name,) = fault.victims
        self.peers[name].start()
        self.down.discard(name)

    def begin_stop(self, fault: Fault) -> None:
        keeper.tell(self.peers[fault.victims[0]].process.pid, signal.SIGSTOP)

    def end_stop(self, fault: Fault) -> None:
        keeper.tell(self.peers[fault.victims[0]].process.pid, signal.SIGCONT)

    def begin_partition(self, fault: Fault) -> None:
        self.wire.set(self._ways_out(fault), Way(dead=True, resets=fault.resets))

    def end_partition(self, fault: Fault) -> None:
        self.wire.set(self._ways_out(fault), WHOLE)

    def begin_slow(self, fault: Fault) -> None:
        self.wire.set(self._ways_out(fault), Way(delay=fault.delay, rate=fault.rate))

    def end_slow(self, fault: Fault) -> None:
        self.wire.set(self._ways_out(fault), WHOLE)

    def begin_node(self, _: Fault) -> None:
        assert self.crew.node is not None
        self.crew.node.end()

    def end_node(self, _: Fault) -> None:
        self.crew.open_node(self.crew.url.rpartition("/")[2])

    def _ways_out(self, fault: Fault) -> list[tuple[str, str]]:
        inside = set(fault.victims)
        everybody = [*self.peers, NODE]
        return [(a, b) for a, b in combinations(everybody, 2) if (a in inside) != (b in inside)]

    # -- looking

    def look(self) -> None:
        """Read what the disks know of the past; note who has ended without us."""
        for peer in self.peers.values():
            self.read_disk(peer)
            crash = ""
            if peer.name not in self.down and not peer.process.runs:
                crash = f"the daemon of {peer.name} ended by itself:\n{tail(peer.home / 'daemon.log')}"
            elif failed := peer.all("run.failed"):
                crash = f"the run of {peer.name} failed: {failed[-1]['error']['message']}"
            if crash and crash not in self.seen.crashes:
                self.seen.crashes.append(crash)

    def read_disk(self, peer: Peer) -> None:
        rows = rows_of(peer, "SELECT state, parent FROM header")
        self.seen.parents |= {row[0]: row[1] for row in rows}


def rows_of(peer: Peer, sql: str) -> list[tuple[str, ...]]:
    """Hashes from the database of a peer that may be running, as events write them."""
    with closing(sqlite3.connect(f"file:{peer.paths.state}/{DATABASE}?mode=ro", uri=True, timeout=10)) as file:
        return [tuple(value[:4].hex() for value in row) for row in file.execute(sql)]


def base_of(peer: Peer) -> str:
    return next((state for (state,) in rows_of(peer, "SELECT state FROM base")), "")


# The row


@dataclass(frozen=True)
class Outcome:
    """What one soak has shown."""

    rounds: int
    faults: int
    recoveries: list[float | None]
    hangs: list[str]
    divergent: set[int]
    lost: list[str]
    forks: list[Told]
    crashes: list[str]


def judge(seen: Seen, told: list[Told], peers: list[str]) -> Outcome:
    """All that was told up to the end of the soak, judged."""
    told = [one for one in told if one.time <= seen.over]
    final = verdict.common_state(told, peers, seen.whole, 0) or verdict.tip_of(told)
    main = verdict.path_to(final.state if final is not None else "", seen.parents)
    if final is not None:  # what was told while the rest of us was being asked is nobody's loss
        told = [one for one in told if one.round <= final.round or one.time < seen.whole]
    return Outcome(
        max((one.round for one in told if one.state in main), default=0),
        len(seen.ended),
        list(verdict.recoveries(seen.ended, told, main)),
        verdict.hangs(told, peers, seen.began, seen.over),
        verdict.divergent(told, main),
        [f"round {number}: no survivor holds it" for number in sorted(verdict.lost(told, main))] + seen.forgotten,
        verdict.forks(told, main),
        seen.crashes,
    )


def row_of(chosen: argparse.Namespace, outcome: Outcome, load: float) -> dict[str, Any]:
    """The result as measuring.md has it, and what else is worth knowing."""
    known = [seconds for seconds in outcome.recoveries if seconds is not None]
    return {
        "tool": "discod",
        "bench": "soak",
        "seed": chosen.seed,
        "load1": round(load, 2),
        "mode": chosen.aggregator,
        "minutes": chosen.minutes,
        "peers": chosen.peers,
        "rounds": outcome.rounds,
        "faults": outcome.faults,
        "recoveries": len(known),
        "hangs": len(outcome.hangs),
        "divergent": len(outcome.divergent),
        "lost": len(outcome.lost),
        "worst_recovery_s": round(max(known), 3) if known else None,
        "recovered_median_s": round(median(known), 3) if known else None,
        "forks": len({(fork.round, fork.state) for fork in outcome.forks}),
        "crashes": len(outcome.crashes),
    }


def slowest_of(outcome: Outcome, seen: Seen) -> str | None:
    """Of all recoveries the slowest, and from what."""
    ends = [(at, fault) for at, what, fault in seen.done if what == "ends"]
    both = [(seconds, *end) for seconds, end in zip(outcome.recoveries, ends, strict=True) if seconds is not None]
    if not both:
        return None
    seconds, at, fault = max(both, key=lambda each: each[0])
    return f"{seconds:.1f} s, of {fault.kind} {' '.join(fault.victims)} that ended at {at:.1f} s".replace("  ", " ")


def wrong(outcome: Outcome, minutes: float) -> list[str]:
    """What is wrong with the result, in sentences."""
    least = LEAST_A_MINUTE * minutes
    return [
        *outcome.hangs,
        *(f"round {number}: two certified states, and nobody settled it" for number in sorted(outcome.divergent)),
        *outcome.lost,
        *outcome.crashes,
        *(f"fault {n}: no recovery" for n, seconds in enumerate(outcome.recoveries, 1) if seconds is None),
        *([f"{outcome.faults} faults, fewer than {LEAST_A_MINUTE} a minute"] if outcome.faults < least else []),
        *([f"{outcome.rounds} rounds, fewer than {LEAST_A_MINUTE} a minute"] if outcome.rounds < least else []),
    ]


def keep(soak: Soak, why: list[str]) -> Path:
    """Everything that was told and logged, in a directory that stays."""
    kept = Path(tempfile.mkdtemp(prefix="discod-soak-"))
    (kept / "wrong.txt").write_text("\n".join(why) + "\n")
    done = [{"at": at, "what": what, **asdict(fault)} for at, what, fault in soak.seen.done]
    (kept / "faults.json").write_text("".join(json.dumps(one) + "\n" for one in done))
    for peer in soak.peers.values():
        events = sorted((e for heard in peer.lives for e in list(heard)), key=lambda e: float(e["time"]))
        events = [{"at": round(event["time"] - soak.seen.began, 3), **event} for event in events]
        (kept / f"{peer.name}.events").write_text("".join(json.dumps(event) + "\n" for event in events))
        shutil.copy(peer.home / "daemon.log", kept / f"{peer.name}.log")
    shutil.copy(soak.crew.root / "node.log", kept / "node.log")
    return kept


@contextmanager
def opened(chosen: argparse.Namespace) -> Iterator[Soak]:
    """A soak whose processes are gone after the block; what is worth keeping is kept when the block fails."""
    with open_crew(f"stand-in:{FLOATS}:{SECONDS_PER_BATCH}") as crew, Wire() as wire:
        soak = Soak(crew, wire)
        try:
            yield soak
        except (AssertionError, UserError) as error:
            say(f"kept: {keep(soak, [str(error)])}")
            raise


def run(chosen: argparse.Namespace) -> int:
    """Set up, go through the schedule, judge, print the row.  Raises: AssertionError when it could not be done."""
    load = os.getloadavg()[0]  # now: later it is our own
    names = [chr(ord("a") + number) for number in range(chosen.peers)]
    faults = schedule(chosen.seed, 60 * chosen.minutes, names)
    aggregator: Literal["mean", "secure"] = chosen.aggregator
    task = a_task(aggregator, rounds=ROUNDS, min_peers=LEAST_PEERS)
    say(f"{chosen.peers} peers, {chosen.minutes:g} minutes of {aggregator}, {len(faults)} faults")
    with opened(chosen) as soak:
        soak.gather(names, task)
        soak.go(faults, 60 * chosen.minutes)
        soak.settle()
        outcome = judge(soak.seen, soak.told(), names)
        minutes = (soak.seen.over - soak.seen.began) / 60
        why = wrong(outcome, min(minutes, chosen.minutes))
        if why or chosen.keep:
            say(f"kept: {keep(soak, why)}")
    print(json.dumps(row_of(chosen, outcome, load)))
    if (slowest := slowest_of(outcome, soak.seen)) is not None:
        say(f"slowest recovery: {slowest}")
    for fork in outcome.forks:
        say(f"fork: {fork.peer} held {fork.state} as round {fork.round}")
    for sentence in why:
        say(f"wrong: {sentence}")
    return 1 if why else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="run.py bench soak"
    )
    minutes = arguments.number(0.5, 24 * 60, float, "the number of minutes")
    parser.add_argument("--minutes", type=minutes, default=10.0, help="how long the faults go on (default: 10)")
    parser.add_argument("--peers", type=arguments.number(4, 16, int, "the number of peers"), default=5)
    parser.add_argument("--aggregator", choices=AGGREGATORS, default="mean")
    parser.add_argument("--seed", type=arguments.number(0, 1 << 62, int, "the seed"), default=0)
    parser.add_argument("--keep", action="store_true", help="keep what was told and logged when all is right, too")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, arguments.terminated)
    try:
        return run(chosen)
    except (AssertionError, UserError) as error:
        say(f"could not be done: {error}")
        return int(Exit.FAILED)
    except KeyboardInterrupt:
        return int(Exit.INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
