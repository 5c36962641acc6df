"""The daemon: the only place where p2p and train meet. It joins store, identity, mesh, control and runs."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING

from discod.errors import first_error

SWITCH_SECONDS = 0.0005  # a thread that has summed or saved hands its result over after this, not after 5 ms

if TYPE_CHECKING:
    from discod.config import Config, Paths


def serve(paths: Paths, config: Config) -> None:
    """Run the daemon of one home until it is told to stop.

    Raises:
        UserError: the home is locked or cannot be used, or the daemon cannot listen where it should.
    """
    from discod import logs
    from discod.daemon import switches
    from discod.daemon.daemon import run_home
    from discod.daemon.schemes import make_exchange

    logs.set_up(config.log.level)
    sys.setswitchinterval(SWITCH_SECONDS)
    device = "CPU" if config.compute.device == "auto" else config.compute.device
    engine = switches.engine_of(os.environ, device)
    exchange = partial(make_exchange, reached=switches.stops_of(os.environ))
    try:
        run_home(paths, config, exchange, engine)
    except BaseExceptionGroup as group:
        raise first_error(group) from group
