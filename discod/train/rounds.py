"""When a round ends, counted in batches, and the exchange that turns local parameters into a joint state. Pure.

Two counters are independent: the tracker's, which counts the batches this peer trained, and the joint round, which is
the version of the last joint state this peer holds. Sending an update does not change the second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from discod.train.totals import Totals
from discod.train.vector import Vector


@dataclass(frozen=True)
class JointState:
    """A certified state: the round it ends, its parameters (d,) float32, and who took part (PeerIds), if known.

    `before` is what all peers together measured of the state that the round started from, if the task says so.
    Given back with the round that the trainer has already, it says: what was trained since is given up, start again.
    """

    round: int
    parameters: Vector
    contributors: tuple[bytes, ...] = ()
    before: Totals | None = None


class Measured(NamedTuple):
    """What one peer measured of the state with this (32,) hash, on its validation rows."""

    state: bytes
    totals: Totals


class Exchange(Protocol):
    """What joins training and communication, whatever the scheme."""

    async def round_begin(self) -> JointState | None:
        """Local training of a round starts: from this newer state, if there is one. Cancelled: it has not begun."""

    async def round_end(self, local: Vector, weight: int) -> JointState | None:
        """Local training of a round has ended with `local` (d,) float32, `weight` samples after the last joint state.

        Under DP the weight is 1, whatever was drawn: nobody learns how many rows a peer has.
        `local` is only read, and only until this returns. Returns a newer joint state, or None to go on with `local`.
        """


class LocalExchange:
    """Alone: nothing is sent, nothing comes back."""

    async def round_begin(self) -> JointState | None:
        return None

    async def round_end(self, local: Vector, weight: int) -> JointState | None:
        return None


class RoundTracker:
    """Counts batches over passes and restarts, never reset: a round ends at every multiple of its duration."""

    def __init__(self, round_duration: int, batch: int = 0) -> None:
        assert round_duration > 0, "a round has batches"
        assert batch >= 0, "batches are counted from 0"
        self.round_duration = round_duration
        self.batch = batch

    @property
    def round(self) -> int:
        """How many rounds of local training have ended."""
        return self.batch // self.round_duration

    @property
    def round_has_ended(self) -> bool:
        """Whether the last batch was the last of its round. A pure query: asking twice is asking once."""
        return self.batch > 0 and self.batch % self.round_duration == 0

    @property
    def remaining(self) -> int:
        """Batches until the next round's end, at least 1."""
        return self.round_duration - self.batch % self.round_duration

    def update_batch(self, batches: int = 1) -> None:
        """The one increment: `batches` more were trained, not past the round's end."""
        assert 0 < batches <= self.remaining, "training ran past the end of its round"
        self.batch += batches
