"""The informant: the one observer of a run. Live view, status, events and metrics read its snapshot and nothing else.

It is told what happened and never asks; numbers are of this peer, which measures on its own validation rows. Who took
part in a round is known once that round is certified, so the average over rounds includes the current one (a known trap
is to divide a total that misses it). Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Literal

import msgspec

MESSAGES_KEPT = 10

Activity = Literal["starting", "waiting", "training", "sharing", "done"]


class TrainingPoint(msgspec.Struct, frozen=True):
    """Local training in one round: loss and accuracy are means over the samples seen, while they were trained on."""

    round: int
    batch: int
    samples: int
    loss: float
    accuracy: float


class ValidationPoint(msgspec.Struct, frozen=True):
    """The validation rows before and after a round's aggregation; equal when this peer got no joint state."""

    round: int
    loss_before: float
    accuracy_before: float
    loss: float
    accuracy: float
    joint: bool


class Snapshot(msgspec.Struct, frozen=True):
    """A run at one moment, ready for JSON. `round` rounds are done, `step` batches of the next."""

    task: str
    revision: int
    activity: Activity
    round: int
    rounds: int
    step: int
    round_duration: int
    batch: int
    samples: int
    loss: float | None
    accuracy: float | None
    peers_current: int
    peers_total: int
    peers_average: float
    bytes_sent: int
    bytes_received: int
    worker_restarts: int
    messages: tuple[str, ...]
    training: tuple[TrainingPoint, ...]
    validation: tuple[ValidationPoint, ...]


class Informant:
    """Collects what a run reports. Every change raises `revision`, so that a reader knows when to look again."""

    def __init__(self, task: str, rounds: int, round_duration: int, *, round: int = 0, batch: int = 0) -> None:
        self.revision = 0
        self.activity: Activity = "starting"
        self.round = round
        self._task, self._rounds, self._round_duration = task, rounds, round_duration
        self._batch, self._samples, self._restarts = batch, 0, 0
        self._loss: float | None = None
        self._accuracy: float | None = None
        self._bytes = (0, 0)
        self._peers: frozenset[bytes] = frozenset()
        self._seen: set[bytes] = set()
        self._attendance, self._attended_rounds = 0, 0
        self._messages: deque[str] = deque(maxlen=MESSAGES_KEPT)
        self._training: list[TrainingPoint] = []
        self._validation: list[ValidationPoint] = []

    def say(self, message: str) -> None:
        """Something a person should read; the last ten are kept."""
        self._messages.append(message)
        self.revision += 1

    def does(self, activity: Activity) -> None:
        """What the run is busy with from now on."""
        self.activity = activity
        self.revision += 1

    def trained(self, batch: int, samples: int, loss: float, accuracy: float) -> None:
        """Training reached `batch` (cumulative) with `samples` more; loss and accuracy are the round's means so far."""
        self._batch, self._loss, self._accuracy = batch, loss, accuracy
        self._samples += samples
        self.revision += 1

    def worker_restarted(self) -> None:
        """The worker died and another one took over."""
        self._restarts += 1
        self.say("worker killed: restarted, round kept")

    def traffic(self, sent: int, received: int) -> None:
        """Bytes on this run's links since it started."""
        self._bytes = (sent, received)
        self.revision += 1

    def update(
        self,
        round: int,
        training: TrainingPoint,
        validation: ValidationPoint | None,
        peers: Iterable[bytes] = (),
    ) -> None:
        """A round is over and `round` joint rounds are done; `peers` (PeerIds) took part in it, none if it was lost."""
        self.round = round
        self._training.append(training)
        if validation is not None:
            self._validation.append(validation)
        self._count(frozenset(peers))
        self.revision += 1

    def _count(self, peers: frozenset[bytes]) -> None:
        if not peers:
            return
        self._peers = peers
        self._seen |= peers
        self._attendance += len(peers)
        self._attended_rounds += 1

    def snapshot(self) -> Snapshot:
        """The run as it is now."""
        return Snapshot(
            task=self._task,
            revision=self.revision,
            activity=self.activity,
            round=self.round,
            rounds=self._rounds,
            step=self._step(),
            round_duration=self._round_duration,
            batch=self._batch,
            samples=self._samples,
            loss=self._loss,
            accuracy=self._accuracy,
            peers_current=len(self._peers),
            peers_total=len(self._seen),
            peers_average=self._attendance / max(1, self._attended_rounds),
            bytes_sent=self._bytes[0],
            bytes_received=self._bytes[1],
            worker_restarts=self._restarts,
            messages=tuple(self._messages),
            training=tuple(self._training),
            validation=tuple(self._validation),
        )

    def _step(self) -> int:
        """A round that is trained but not yet shared shows as full, not as empty."""
        step = self._batch % self._round_duration
        return self._round_duration if step == 0 and self.activity == "sharing" else step
