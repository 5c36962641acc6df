"""From where training goes on when a daemon starts again: the working checkpoint, or the certified base. Pure.

no checkpoint                          the base, batch 0
a checkpoint trained from this base    its parameters and its batch counter
... whose update was spent             the base: what was sent may be in a sum that others hold (protocol.md 6.6)
a checkpoint trained from another base the base: what was certified meanwhile holds more than this peer's part

The batch counter is the highest that the checkpoint or a spent record knows: a spent batch is never drawn again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from discod.store import SpentRow, Working
from discod.train.vector import Vector

PARAMETERS = "parameters"  # the vector's name in the checkpoint; left out when it is the base's


class Start(NamedTuple):
    """Parameters (d,) and batches trained so far."""

    parameters: Vector
    batches: int


def where_to_start(base: bytes, parameters: Vector, working: Working | None, spent: Sequence[SpentRow]) -> Start:
    """Where training of a task goes on: `base` and its `parameters` are certified, or the task's first ones.

    `spent`: all records of the task. The batch counter never goes back, whatever becomes of the parameters.
    """
    batches = max([working.batches if working else 0, *(row.batches for row in spent)])
    if working is None:
        return Start(parameters, batches)
    kept = working.vectors.get(PARAMETERS)
    usable = kept is not None and kept.shape == parameters.shape and kept.dtype == np.float32
    is_spent = any(row.base == base for row in spent)
    if working.base == base and not is_spent and usable and kept is not None:
        return Start(kept, batches)
    return Start(parameters, batches)
