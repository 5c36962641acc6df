"""What a task and this peer's policy fix for the round machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    """Times in seconds."""

    scope: bytes
    words: int  # of an encoded update
    min_peers: int  # effective: the larger of the task's and this peer's
    majority: bool = False  # more than half of all trainers, instead of 2/3 of the roster
    straggle: float = 0.0  # how long the others have after the t-th Manifest; 0: half of the own training, 2 s at least
    bulk: float = 0.0  # expected time to move one vector
    witness: bool = False  # a second peer sums each chunk too, and a sum counts only when both agree
    secure: bool = False  # updates are masked; else (`mean`) each owner sees its chunk of them


@dataclass(slots=True)
class Spent:
    """The spent records under the base: how many Manifests may have left."""

    manifests: int = 0
