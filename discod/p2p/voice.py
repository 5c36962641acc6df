"""How a machine speaks: signs a body for one task, and queues it for a peer, for everybody linked, or for a roster."""

from __future__ import annotations

from collections.abc import Iterable

from discod.p2p import effects as fx
from discod.p2p.certificate import Keyring
from discod.wire.rounds import NO_RID, Message, Signed, make_envelope

MAX_NOTE = 200  # characters


class Voice:
    """The queue of effects, who is linked, and the sequence number that only grows."""

    def __init__(self, scope: bytes, keyring: Keyring, seq: int) -> None:
        self.keyring = keyring
        self.linked: set[bytes] = set()
        self.relay: bytes | None = None  # the leader of the attempt: passes messages on where there is no link
        self.out: list[fx.Effect] = []
        self.said: list[
            tuple[Signed, bytes | None]
        ] = []  # mine of the attempt, and for whom, for a link that comes back
        self._scope = scope
        self._seq = seq

    def next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def sign(self, body: Message, rid: bytes, slot: int) -> Signed:
        return self.keyring.sign(make_envelope(self._scope, rid, self.keyring.me, body, slot))

    def send(self, peer: bytes, signed: Signed) -> None:
        """Queue for one peer; dropped where neither it nor the leader is linked (it is said again on a new link)."""
        if peer in self.linked:
            self.out.append(fx.Send(peer, signed))
        elif self.relay in self.linked and self.relay is not None and peer != self.keyring.me:
            self.out.append(fx.Send(peer, signed, self.relay))

    def send_all(self, peers: Iterable[bytes], signed: Signed) -> None:
        for peer in peers:
            if peer != self.keyring.me:
                self.send(peer, signed)

    def repeat_to(self, peer: bytes) -> None:
        """Say again what I have said in the attempt: the link to this peer is another one."""
        for signed, to in self.said:
            if to in (None, peer):
                self.send(peer, signed)

    def tell(self, peer: bytes, body: Message, slot: int) -> None:
        self.send(peer, self.sign(body, NO_RID, slot))

    def broadcast(self, body: Message, slot: int) -> None:
        """To everybody linked, whether in a roster or not."""
        self.send_all(sorted(self.linked), self.sign(body, NO_RID, slot))

    def note(self, event: str, peer: bytes | None, text: str) -> None:
        """For a person; `text` may be another peer's words."""
        self.out.append(fx.Note(event, peer, "".join(c for c in text[:MAX_NOTE] if c.isprintable())))
