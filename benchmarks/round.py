"""How long a round takes: real daemons on this machine, beside bare TLS sockets that move the same bytes.

    python3 run.py bench round [--peers 4 --mb 10 --rounds 7] [--aggregator mean|secure] [--floor] [--seed 0]

A daemon with a home of its own for each peer, one signaling node, TLS over loopback, the whole round; only the workers
are stand-ins, whose updates anybody can compute (discod/train/standin.py). They "train" long enough that the roster of
a round stands before its updates are there.

    round_s           last round.certified of all peers - last round.shared of all peers
    keys_s            secure: from the last roster to the last Start of a round, while training runs
    bytes_up_per_peer what the counters of the links (/v1/peers) grew by from the end of round 1 to the end of the last
                      one, by rounds and peers: everything, certificates and safety copies included. With --rounds 1
                      from before the task was accepted
    peak_rss_mb       VmHWM of the daemon in which it is largest; idle_rss_mb is VmRSS of the same one before the task,
                      peak_vectors the difference in vectors. The vector that it shares with its worker is in it
    floor_median_s    benchmarks/floor.py before and after, the faster; ratio is median_round_s to that

At the end every daemon must hold the model that numpy and the codec of ring.py say. Exit 1 when one does not.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any, TypeVar

import trio

from benchmarks import _arguments as arguments
from benchmarks import floor
from benchmarks._daemons import Outcome, measure, say, task_for
from discod.errors import Exit, UserError, first_error

AGGREGATORS = ("mean", "secure")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Result = TypeVar("Result")


async def until_signal(work: Callable[[], Awaitable[Result]]) -> Result:
    """What `work` returns; after a signal it is cancelled, cleans up, and `interrupted` is raised."""
    caught: list[int] = []
    with trio.open_signal_receiver(*SIGNALS) as signals:
        async with trio.open_nursery() as nursery:

            async def stop() -> None:
                caught.append(await anext(signals))
                nursery.cancel_scope.cancel()

            nursery.start_soon(stop)
            result = await work()
            nursery.cancel_scope.cancel()
    if caught:
        ended = Exit.INTERRUPTED if caught[0] == signal.SIGINT else Exit.TERMINATED
        raise UserError("stopped; nothing of it is left", code="interrupted", exit=ended)
    return result


def row_of(chosen: argparse.Namespace, outcome: Outcome, floor_s: float | None, load: float) -> dict[str, Any]:
    """The result as measuring.md has it, and what else is worth knowing."""
    middle, vector = median(outcome.seconds), arguments.floats_of(chosen.mb) * arguments.FLOAT_BYTES
    peak, idle = outcome.peak_mb, outcome.idle_mb
    above = None if peak is None or idle is None else (peak - idle) * arguments.MB / vector
    return {
        "tool": "discod",
        "bench": "round",
        "seed": chosen.seed,
        "load1": round(load, 2),
        "mode": chosen.aggregator,
        "mb": chosen.mb,
        "clients": chosen.peers,
        "rounds": chosen.rounds,
        "round_s": [round(one, 6) for one in outcome.seconds],
        "median_round_s": round(middle, 6),
        "keys_s": round(median(outcome.keys), 6) if outcome.keys else None,
        "bytes_up_per_peer": round(sum(outcome.bytes_up.values())),
        "bytes_up_by_kind": {kind: round(count) for kind, count in outcome.bytes_up.items()},
        "peak_rss_mb": peak and round(peak, 1),
        "idle_rss_mb": idle and round(idle, 1),
        "peak_vectors": above and round(above, 2),
        "floor_median_s": floor_s and round(floor_s, 6),
        "ratio": floor_s and round(middle / floor_s, 3),
        "lost_rounds": outcome.lost,
        "model_sha256": outcome.right,
    }


def wrong(outcome: Outcome, rounds: int) -> str | None:
    """What is wrong with the result, in a sentence."""
    if len(set(outcome.models)) > 1:
        return f"the daemons hold different models: {', '.join(one[:8] for one in outcome.models)}"
    if outcome.models[0] != outcome.right:
        lost = f" ({outcome.lost} reports of a lost round, which changes it)" if outcome.lost else ""
        return f"all daemons hold {outcome.models[0][:8]}, numpy says {outcome.right[:8]}{lost}"
    if len(outcome.seconds) != rounds:
        return f"{len(outcome.seconds)} of {rounds} rounds were told by all daemons"
    return None


def floor_seconds(chosen: argparse.Namespace) -> float:
    """The median of one turn of the floor."""
    seconds = floor.measure(chosen.peers, arguments.floats_of(chosen.mb), chosen.rounds, chosen.seed)
    say(f"  bare TLS sockets: {median(seconds) * 1e3:.1f} ms")
    return median(seconds)


def run(chosen: argparse.Namespace) -> int:
    """Floor, daemons, floor; print the row.  Raises: UserError."""
    floats, load = arguments.floats_of(chosen.mb), os.getloadavg()[0]  # now: later it is our own
    task = task_for(chosen.peers, chosen.rounds, chosen.seed, chosen.aggregator)
    say(f"{chosen.peers} peers, {chosen.mb:g} MB, {chosen.rounds} rounds of {chosen.aggregator}")
    before = [floor_seconds(chosen)] if chosen.floor else []
    try:
        outcome = trio.run(until_signal, lambda: measure(task, chosen.peers, floats))
    except BaseExceptionGroup as group:
        raise first_error(group) from group
    after = [floor_seconds(chosen)] if chosen.floor else []
    if outcome.seconds:
        print(json.dumps(row_of(chosen, outcome, min(before + after, default=None), load)))
    if (why := wrong(outcome, chosen.rounds)) is not None:
        say(f"wrong: {why}")
    return 0 if why is None else 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="run.py bench round"
    )
    arguments.add_to(parser)
    parser.add_argument("--aggregator", choices=AGGREGATORS, default="mean")
    parser.add_argument("--floor", action="store_true", help="measure bare TLS sockets too, before and after")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, arguments.terminated)
    try:
        return run(chosen)
    except UserError as error:
        say(f"{error.message}\ntry: {error.hint}" if error.hint else error.message)
        return int(error.exit)
    except KeyboardInterrupt:
        return int(Exit.INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
