"""What the updates of a run cost the data they were trained on (discod.store.budgets keeps it).

    trained, then sent       charged for the steps since the last charge, before the Manifest leaves
    sent, and the round lost stays charged; the steps that follow are charged with the next Manifest
    trained, never sent      not charged, once a joint state has taken their place; with momentum they are, for the
                             velocities remember them

Bundled samples are public and cost nothing; their epsilon is shown all the same. Steps of a slice in which the worker
died are undone by the trainer, so the batch counter counts every step that an update can hold.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from discod.errors import BadData, LocalError
from discod.privacy.accountant import NOTHING, epsilon_of
from discod.privacy.peers import PeerNoise, Portion, costs, plan_peer_noise
from discod.privacy.plan import Noise, plan_noise
from discod.store import Amend, Charge, SpentRow
from discod.train import datasets
from discod.train.datasets.source import readable
from discod.train.task import TaskSpec

FILE_LABEL = b"discod/data-file/1"


class Content(NamedTuple):
    """A data set as the ledger knows it: a hash of what it holds, and where it lies."""

    hash: bytes
    path: str


def content_of(source: str) -> Content | None:
    """What a source holds, whatever a task reads of it; None for a bundled sample. Blocking.

    A file that `data add` can read has the content hash of its rows, which saving them again does not change; another
    has the hash of its bytes. Raises: BadData, PermissionProblem.
    """
    if source.startswith(datasets.SAMPLE_PREFIX):
        return None
    path = Path(source)
    try:
        hash_ = datasets.load(source, datasets.infer(source)).content_hash
    except BadData:
        with readable(path), path.open("rb") as file:
            hash_ = hashlib.sha256(FILE_LABEL + hashlib.file_digest(file, "sha256").digest()).digest()
    return Content(hash_, str(path.resolve()))


def noise_for_data(task: TaskSpec, source: str) -> Noise | PeerNoise | None:
    """The noise of a run of this task on this source; None without privacy. Blocking.

    Raises: BadData (they do not fit), PermissionProblem.
    """
    found = datasets.load(source, task.data)
    if not task.noises_steps:
        return plan_peer_noise(task)
    training, _ = datasets.split(found, task.training.validation_split, task.seed, by_row=True)
    return plan_noise(task, len(training))


def charge_of(content: Content, noise: Noise, steps: int) -> Charge:
    """What so many steps cost."""
    return Charge(content.hash, content.path, noise.per_round(steps), NOTHING, noise.overflow * steps)


def charge_of_rounds(content: Content, noise: Noise | PeerNoise, rounds: int, batches: int) -> Charge:
    """What so many rounds of so many batches cost, when none is lost."""
    if isinstance(noise, Noise):
        return charge_of(content, noise, rounds * batches)
    return Charge(content.hash, content.path, *costs(noise.z, rounds))


class Charging:
    """The charges of one run. `charge` and `paid` are called in a thread, while the trainer waits."""

    def __init__(self, task: TaskSpec) -> None:
        self._task = task
        self._content: Content | None = None
        self._noise: Noise | None = None
        self._paid = 0  # the batch counter up to which steps are charged or given up
        self._released = 0  # steps in updates that were sent, over restarts

    def begin(self, content: Content | None, spent: list[SpentRow], batches: int, *, at_base: bool) -> None:
        """Training starts at this batch, with the parameters of the base or of a checkpoint after it."""
        charged = max((row.batches for row in spent), default=0)
        self._content, self._paid = content, batches if at_base and not self._remembers else charged
        self._released = len(spent) * self._task.round_duration

    def trains(self, noise: Noise | None) -> None:
        """A worker trains with this noise. Raises: BadData (data-changed)."""
        if self._noise not in (None, noise):
            why = "the data set changed while it was being trained on"
            raise BadData(why, "train again: what was sent stays charged to what it was", code="data-changed")
        self._noise = noise

    def start_anew(self, batches: int) -> None:
        """A joint state has taken the place of whatever was trained up to this batch."""
        if not self._remembers:
            self._paid = batches

    def charge(self, batches: int) -> Charge | None:
        """What an update of this batch costs; None when nothing is charged."""
        if not self._task.is_private:
            return None
        if self._noise is None:
            raise LocalError("an update is trained before it is charged")
        return None if self._content is None else charge_of(self._content, self._noise, batches - self._paid)

    def amend(self, portion: Portion, included: int) -> Amend | None:
        """What a certified sum over so many has cost less than was charged (0: it is without this peer's update)."""
        return None

    def covers(self, batches: int) -> bool:
        """Whether an update of this batch is within the steps that the noise of the task is planned for."""
        return not self._task.is_private or self._released + batches - self._paid <= self._task.steps

    def paid(self, batches: int) -> None:
        """The update of this batch is charged, and may be sent."""
        self._released += batches - self._paid
        self._paid = batches

    def shown(self) -> dict[str, Any] | None:
        """The privacy of a run, for the control API; None without, and while no worker has started."""
        noise = self._noise
        return None if noise is None else shown_noise(noise) | {"spent": self._epsilon(noise)}

    def _epsilon(self, noise: Noise) -> float:
        return epsilon_of(noise.per_round(self._released), noise.delta, noise.overflow * self._released)

    @property
    def epsilon(self) -> float | None:
        """Of what this run has sent."""
        return None if self._noise is None else self._epsilon(self._noise)

    @property
    def _remembers(self) -> bool:
        return self._task.training.momentum > 0


def shown_noise(noise: Noise | PeerNoise) -> dict[str, Any]:
    """A plan in the control API; `epsilon` is that of all steps, or releases."""
    if isinstance(noise, PeerNoise):
        shared = {"z": noise.z, "releases": noise.releases, "delta": noise.delta, "clip": noise.clip}
        return {"unit": "peer", "epsilon": noise.epsilon} | shared
    return {
        "unit": "record",
        "epsilon": noise.epsilon,
        "q": noise.q,
        "z": noise.z,
        "steps": noise.steps,
        "delta": noise.delta,
        "clip": noise.clip,
    }
