"""The one snapshot that a run waits for: from whom, of which state, and where its bytes go."""

from __future__ import annotations

import numpy as np

from discod.errors import Broken
from discod.train.vector import Vector
from discod.wire.links import BulkHeader
from discod.wire.rounds import Head, head_hash


class Fetching:
    """Nothing, or a state of `floats` parameters that a peer was asked for."""

    def __init__(self, floats: int) -> None:
        self._floats = floats
        self._wanted: tuple[bytes, Head] | None = None
        self._landing: Vector | None = None

    def want(self, peer: bytes, head: Head) -> None:
        """From now on this state is waited for, and no other."""
        self._wanted, self._landing = (peer, head), None

    def place(self, peer: bytes, header: BulkHeader) -> memoryview | None:
        """Where this transfer goes, if it is the one that is waited for."""
        if self._wanted is None or header.size != 4 * self._floats:
            return None
        holder, head = self._wanted
        if (holder, head_hash(head)) != (peer, header.rid):
            return None
        self._landing = np.empty(self._floats, np.float32)
        return self._landing.data.cast("B")

    def came(self, peer: bytes, state: bytes, digest: bytes) -> tuple[Head, Vector] | None:
        """All bytes of a transfer are here; None when they are wanted no more.

        Raises: Broken when their SHA-256 is not what the certified state says; nothing is waited for then.
        """
        wanted, parameters = self._wanted, self._landing
        if wanted is None or parameters is None or (wanted[0], head_hash(wanted[1])) != (peer, state):
            return None
        self._wanted = self._landing = None
        if digest != wanted[1].parameters:
            raise Broken(peer, "a snapshot that is not the state it was asked for")
        return wanted[1], parameters
