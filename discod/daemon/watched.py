"""An exchange as training sees it, with a look at the clock and the batch counter."""

from __future__ import annotations

import time

from discod.daemon.exchanging import RunExchange
from discod.train.informant import Informant
from discod.train.rounds import JointState
from discod.train.vector import Vector


class Watched:
    """The exchange as training sees it, with a look at the clock and the batch counter."""

    def __init__(self, inner: RunExchange, informant: Informant) -> None:
        self._inner, self._informant = inner, informant
        self.began = time.monotonic()

    async def round_begin(self) -> JointState | None:
        self.began = time.monotonic()
        return await self._inner.round_begin()

    async def round_end(self, local: Vector, weight: int) -> JointState | None:
        self._inner.batches = self._informant.snapshot().batch
        return await self._inner.round_end(local, weight)
