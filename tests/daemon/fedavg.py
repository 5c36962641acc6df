"""Federated averaging as a slow, obvious oracle: the same batches in the same order, in numpy and in one process.

Two ways to join the updates: by ring's codec, to the bit; and in float64 by the textbook, where nothing is rounded and
only weighted updates beyond the round's bound are clipped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from discod import ring
from discod.train.batches import BatchOrder
from discod.train.task import TaskSpec
from discod.train.vector import Vector
from tests.daemon.company import Part

Train = Callable[[Vector, Part, NDArray[np.int32], NDArray[np.bool_], int], None]  # rows, mask and number of a batch


class Round(NamedTuple):
    """What a round of the oracle gave."""

    parameters: Vector  # (d,)
    textbook: NDArray[np.float64]  # (d,) the mean of the same updates, without rounding
    words: list[ring.Words]  # (d + 1,) of each peer
    weights: list[int]
    bound: float  # of the next round
    clipped: int


def federated(task: TaskSpec, first: Vector, parts: Sequence[Part], train: Train) -> list[Round]:
    """All rounds of `task` from `first` (d,); `train` does one batch, in place."""
    rounds: list[Round] = []
    base, bound = first, task.bound
    for number in range(task.rounds):
        trained = [_local(task, base, part, train, number) for part in parts]
        rounds.append(_join(task, base, bound, trained))
        base, bound = rounds[-1].parameters, rounds[-1].bound
    return rounds


def _local(task: TaskSpec, base: Vector, part: Part, train: Train, number: int) -> tuple[Vector, int]:
    """A peer's parameters after its batches of a round, and the samples it saw in them."""
    local, samples = base.copy(), 0
    order = BatchOrder(task.seed, part.training.content_hash, len(part.training), task.batch_size)
    batches = order.batches(number * task.round_duration)
    for batch in range(number * task.round_duration, (number + 1) * task.round_duration):
        rows, mask = next(batches)
        train(local, part, rows, mask, batch)
        samples += int(mask.sum())
    return local, samples


def _join(task: TaskSpec, base: Vector, bound: float, trained: Sequence[tuple[Vector, int]]) -> Round:
    codec, total = ring.Codec(len(trained), bound), np.zeros(len(base) + 1, np.uint32)
    words, weights, clipped = [], [], 0
    for local, samples in trained:
        mine = np.empty_like(total)
        weights.append(ring.weight_word(samples, task.weight_cap))
        clipped += ring.encode(local, base, codec, weights[-1], mine).clipped
        words.append(mine)
        total += mine
    out = np.empty_like(base)
    applied = ring.apply_mean(base, total, codec, out)
    shares = [min(samples, task.weight_cap) / task.weight_cap for _, samples in trained]
    weighted = [
        np.clip((local.astype(np.float64) - base) * share, -bound, bound)
        for (local, _), share in zip(trained, shares, strict=True)
    ]
    textbook = base.astype(np.float64) + np.sum(weighted, axis=0) / sum(shares)
    return Round(out, textbook, words, weights, applied.next_bound, clipped)
