"""An exchange as training sees it, with a look at the clock, the batch counter and what a joint state replaces."""

from __future__ import annotations

import time

from discod.daemon.charging import Charging
from discod.daemon.exchanging import RunExchange
from discod.train.informant import Informant
from discod.train.rounds import JointState
from discod.train.vector import Vector


class Watched:
    """The exchange as training sees it, with a look at the clock and the batch counter."""

    def __init__(self, inner: RunExchange, informant: Informant, charging: Charging) -> None:
        self._inner, self._informant, self._charging = inner, informant, charging
        self.began = time.monotonic()

    async def round_begin(self) -> JointState | None:
        self.began = time.monotonic()
        return self._seen(await self._inner.round_begin())

    async def round_end(self, local: Vector, weight: int) -> JointState | None:
        self._inner.batches = self._informant.snapshot().batch
        return self._seen(await self._inner.round_end(local, weight))

    def _seen(self, newer: JointState | None) -> JointState | None:
        if newer is not None:
            self._charging.start_anew(self._informant.snapshot().batch)
        return newer
