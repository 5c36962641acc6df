"""What the store gives back. Ids and hashes are (32,) bytes, times Unix seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct, field

from discod.privacy.accountant import Curve

Vectors = dict[str, np.ndarray[Any, np.dtype[Any]]]


class MeshRow(Struct, frozen=True):
    """A mesh this peer is in: its root public key, its signaling nodes and the first one's id."""

    id: bytes
    root: bytes
    name: str
    signaling: tuple[str, ...]
    signaling_key: bytes
    joined: float


class DatasetRow(Struct, frozen=True):
    """A local data set, by path or by an embedded sample's name; `content` is the hash of what it held when added."""

    alias: str
    path: str | None
    sample: str | None
    content: bytes
    rows: int
    about: str
    added: float


class TaskRow(Struct, frozen=True):
    """A task known here: its canonical spec, and whether and with which data set this peer accepted it."""

    id: bytes
    mesh: bytes | None
    name: str
    spec: bytes
    accepted: bool
    data: str | None
    state: str
    added: float


class RunRow(Struct, frozen=True):
    """One execution of a task."""

    number: int
    task: bytes
    data: str
    state: str
    started: float
    ended: float | None


class FigureRow(Struct, frozen=True):
    """What was measured at one step of a run."""

    step: int
    round: int
    time: float
    figures: dict[str, Any]


class Header(Struct, frozen=True):
    """One certified state: its hash, what it follows, and the encoded certificate."""

    state: bytes
    parent: bytes
    round: int
    certificate: bytes


class Base(Struct, frozen=True):
    """The last certified joint state: header, vectors by name, text fields."""

    header: Header
    vectors: Vectors
    info: dict[str, str] = field(default_factory=dict)


class Working(Struct, frozen=True):
    """The working checkpoint: vectors trained since `base`, at `batches` of the task's batch counter."""

    base: bytes
    batches: int
    vectors: Vectors
    info: dict[str, str] = field(default_factory=dict)


class SpentRow(Struct, frozen=True):
    """An update that was sent: never to be sent in another round (protocol.md 6.6). `uh` is set at Consent.

    `charge` is by how much it raised the epsilon of its data set, filled in when it is spent.
    """

    base: bytes
    batches: int
    rid: bytes
    charge: float
    uh: bytes | None


class Charge(Struct, frozen=True):
    """What one release costs the data set whose content has this (32,) hash and which lies at the real path `path`.

    A release that hides a whole peer adds to both curves, one that hides a record to `record` alone. `delta` is the
    chance that the release was not what its curve describes (accountant.epsilon_of calls it overflow).
    """

    content: bytes
    path: str
    record: Curve
    peer: Curve
    delta: float = 0.0


class Amend(Struct, frozen=True):
    """What a release was charged, and what it has turned out to cost, which is never more; of one content."""

    was: Charge
    now: Charge


class Share(Struct, frozen=True):
    """What one task has cost a data set so far."""

    task: bytes
    record: Curve
    peer: Curve
    overflow: float


class Raise(Struct, frozen=True):
    """A budget that somebody made larger, and why."""

    time: float
    before: float
    after: float
    reason: str


class ModelRow(Struct, frozen=True):
    """A saved model."""

    number: int
    task: bytes
    name: str
    round: int
    state: bytes
    saved: float
    path: Path
