"""What all runs of a daemon share, and what trains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from msgspec import Struct

from discod.control.events import EventLog
from discod.daemon.exchanging import MakeExchange
from discod.daemon.meshes import Meshes
from discod.daemon.routing import Router
from discod.identity import Identity
from discod.store import Store


class Engine(Struct, frozen=True):
    """What trains: the engine and its device; a stand-in of `length` floats for tests and benchmarks."""

    name: Literal["tinygrad", "stand-in"] = "tinygrad"
    device: str = "CPU"
    length: int = 0
    seconds_per_batch: float = 0.0


@dataclass(frozen=True)
class Surroundings:
    """What all runs share."""

    meshes: Meshes
    store: Store
    router: Router
    identity: Identity
    events: EventLog
    make_exchange: MakeExchange
    engine: Engine
    cache: Path
    min_peers: int  # of this peer's policy
