"""Two switches in the environment, for tests and benchmarks of whole processes; nobody else sets them.

    DISCOD_TEST_ENGINE=stand-in:FLOATS[:SECONDS]   every run trains the stand-in, so many floats, so long a batch
    DISCOD_TEST_STOP=PHASE[:ROUND]                 the process stops itself (SIGSTOP) when it reaches a phase, once

Phases, in the order of a round: open, contribute, spent (the record is on disk, the Manifest has not left), combine,
apply, applied (the state is on disk, the Done has not left), adopt, adopted (it is the base on disk). And say-KIND, for
every kind of message: the first one of that kind has not left.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

from discod.daemon.surroundings import Engine
from discod.daemon.workshop import Reached, reach_nothing
from discod.errors import BadConfig
from discod.wire.rounds import BODIES

ENGINE, STOP = "DISCOD_TEST_ENGINE", "DISCOD_TEST_STOP"
LONGEST_BATCH = 3600.0  # seconds
STEPS = ("open", "contribute", "spent", "combine", "apply", "applied", "adopt", "adopted")
PHASES = (*STEPS, *(f"say-{kind}" for kind in BODIES))


def engine_of(environ: Mapping[str, str], device: str) -> Engine:
    """What trains: tinygrad on `device`, or what the environment says. Raises: BadConfig."""
    text = environ.get(ENGINE, "")
    if not text:
        return Engine(device=device)
    name, _, numbers = text.partition(":")
    length, _, seconds = numbers.partition(":")
    try:
        floats, rest = int(length), float(seconds or 0)
    except ValueError:
        floats, rest = 0, 0.0
    if name != "stand-in" or floats < 1 or not 0 <= rest < LONGEST_BATCH:
        raise BadConfig(f"{ENGINE}={text}", "stand-in:FLOATS or stand-in:FLOATS:SECONDS")
    return Engine("stand-in", device, floats, rest)


def stops_of(environ: Mapping[str, str]) -> Reached:
    """What to call at each phase: it stops this process where the environment says. Raises: BadConfig."""
    text = environ.get(STOP, "")
    where, _, number = text.partition(":")
    if text and (where not in PHASES or not (number or "1").isdecimal()):
        raise BadConfig(f"{STOP}={text}", f"PHASE or PHASE:ROUND; phases: {', '.join(PHASES)}")
    if not where:
        return reach_nothing
    left = [where]

    def reached(phase: str, round_number: int) -> None:
        if phase in left and (not number or round_number >= int(number)):
            left.clear()
            os.kill(os.getpid(), signal.SIGSTOP)

    return reached
