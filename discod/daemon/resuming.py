"""From where training goes on when a daemon starts again: the working checkpoint, or the certified base. Pure.

no checkpoint                          the base, batch 0
a checkpoint trained from this base    its parameters and its batch counter
... whose update was spent             the base: what was sent may be in a sum that others hold (protocol.md 6.6)
a checkpoint trained from another base the base: what was certified meanwhile holds more than this peer's part
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from discod.store import Working
from discod.train.vector import Vector

PARAMETERS = "parameters"  # the vector's name in the checkpoint; left out when it is the base's


class Start(NamedTuple):
    """Parameters (d,) and batches trained so far."""

    parameters: Vector
    batches: int


def where_to_start(base: bytes, parameters: Vector, working: Working | None, *, spent: bool) -> Start:
    """Where training of a task goes on: `base` and its `parameters` are certified, or the task's first ones.

    The batch counter never goes back, whatever becomes of the parameters: a batch is not drawn twice.
    """
    if working is None:
        return Start(parameters, 0)
    kept = working.vectors.get(PARAMETERS)
    usable = kept is not None and kept.shape == parameters.shape and kept.dtype == np.float32
    if working.base == base and not spent and usable and kept is not None:
        return Start(kept, working.batches)
    return Start(parameters, working.batches)
