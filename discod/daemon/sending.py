"""What a run sends over the links: signed messages, and vectors or parts of them as bulk."""

from __future__ import annotations

from discod.p2p.effects import Send
from discod.p2p.mesh import Mesh
from discod.ring import Words
from discod.train.vector import Vector
from discod.wire.links import BulkHeader, BulkKind, Post


class Sending:
    """To the peers of one scope."""

    def __init__(self, mesh: Mesh, scope: bytes) -> None:
        self._mesh, self._scope = mesh, scope

    def message(self, effect: Send) -> None:
        """To its receiver, or to a peer that passes it on; who is not linked hears it again on a new link."""
        if effect.via is None:
            self._mesh.send(effect.to, Post(b"", effect.signed))
        else:
            self._mesh.send(effect.via, Post(effect.to, effect.signed))

    def bulk(self, to: bytes, kind: BulkKind, rid: bytes, chunk: int, data: Words | Vector) -> bool:
        """Queue `data`, which is not written to from now on; False when the peer cannot be sent to now."""
        header = BulkHeader(self._scope, rid, kind, chunk, data.nbytes)
        return self._mesh.send_bulk(to, header, data.data.cast("B"))
