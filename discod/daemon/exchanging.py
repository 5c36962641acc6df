"""What a run needs of its exchange, whichever it is: training's two calls, the network's two, and a few figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import trio
from msgspec import Struct

from discod.daemon.charging import Charging
from discod.daemon.routing import Sink
from discod.identity import Identity, Members
from discod.p2p.mesh import Mesh
from discod.store import Store
from discod.train.rounds import Exchange, Measured
from discod.train.task import TaskSpec
from discod.train.vector import Vector

FINISHED = "finished"
QUIET_ENDINGS = ("certified", "another base", FINISHED)


class ExchangeStatus(Struct, frozen=True):
    """Where an exchange stands: its phase in a word, who is ready, who is in the attempt (else: was in the last)."""

    phase: str = "idle"
    ready: frozenset[bytes] = frozenset()  # PeerIds with a valid Advert, mine included
    roster: tuple[bytes, ...] = ()
    lost: int = 0  # attempts since the start
    last_loss: str = ""
    bytes_up: int = 0  # of this run; 0 where it does not count
    bytes_down: int = 0
    way: str = ""  # where updates go, in a task with a fallback: mesh or node
    switches: int = 0  # of the way, since the start
    waits_there: bool = False  # the last update was sent and waits for others: no state came, and nothing is lost


class RunExchange(Exchange, Sink, Protocol):
    """An exchange as the daemon uses it. It loads and saves certified states and spent records itself."""

    batches: int  # trained so far, over restarts; set by the run
    measured: Measured | None  # of a joint state, for the others to hear in a sum; set by the run

    @property
    def parameters(self) -> Vector:
        """(d,) of the base, the task's first ones before the first certificate."""

    @property
    def round(self) -> int:
        """Of the base."""

    @property
    def base(self) -> bytes:
        """The (32,) hash of the base."""

    @property
    def certificate(self) -> bytes:
        """The encoded certificate of the base; empty before the first."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive the rounds until cancelled; after `retire` only serve the certified state."""

    def set_out(self) -> Vector:
        """(d,) the base that training goes on from: an update is what was learned since."""

    def retire(self, why: str = "finished") -> None:
        """This peer trains no more."""

    def members_changed(self) -> None:
        """The member set of its mesh is another."""

    def round_of(self, peer: bytes) -> int | None:
        """The round of the state that a peer said it stands on; None when it is not linked."""

    def status(self) -> ExchangeStatus:
        """Where it stands."""


class MakeExchange(Protocol):
    """Makes the exchange of one run."""

    def __call__(
        self,
        *,
        task: TaskSpec,
        scope: bytes,
        members: Members,
        mesh: Mesh,
        identity: Identity,
        store: Store,
        initial_parameters: Vector,
        min_peers: int,
        notify: Callable[[str, dict[str, Any]], None],
        charging: Charging,
    ) -> RunExchange: ...
