"""What a run sends over the links: signed messages, and vectors or parts of them as bulk."""

from __future__ import annotations

from collections.abc import Callable

from discod.p2p.effects import Send
from discod.p2p.mesh import Mesh
from discod.ring import Words
from discod.train.vector import Vector
from discod.wire.links import BulkHeader, BulkKind, Post
from discod.wire.rounds import Signed


class Sending:
    """To the peers of one scope; `says` hears of every message before it leaves."""

    def __init__(self, mesh: Mesh, scope: bytes, says: Callable[[Signed], None]) -> None:
        self._mesh, self._scope, self._says = mesh, scope, says

    def message(self, effect: Send) -> None:
        """To its receiver, or to a peer that passes it on; who is not linked hears it again on a new link."""
        self._says(effect.signed)
        if effect.via is None:
            self._mesh.send(effect.to, Post(b"", effect.signed))
        else:
            self._mesh.send(effect.via, Post(effect.to, effect.signed))

    def bulk(self, to: bytes, kind: BulkKind, rid: bytes, chunk: int, data: Words | Vector) -> bool:
        """Queue `data`, which is not written to from now on; False when the peer cannot be sent to now."""
        header = BulkHeader(self._scope, rid, kind, chunk, data.nbytes)
        return self._mesh.send_bulk(to, header, data.data.cast("B"))
