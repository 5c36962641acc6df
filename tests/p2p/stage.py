"""A world (world.py) whose messages a test can hold back or change, and whose notes it can read."""

from __future__ import annotations

from collections.abc import Callable

from discod.p2p import effects as fx
from discod.p2p.attempt import Attempt
from discod.p2p.round import Round
from discod.wire.rounds import Envelope, Message, Signed, parse_envelope
from tests.p2p.table import sign
from tests.p2p.world import Host, World, peer_id


class Actor(Host):
    """A host that notes what its machine asks for, and whose update may be bad."""

    def __init__(self, stage: Stage, peer: bytes) -> None:
        super().__init__(stage, peer)
        self.stage = stage
        self.bad = ""  # why its update cannot be contributed

    @property
    def running(self) -> Round:
        assert self.machine is not None
        return self.machine

    def _perform(self, effect: fx.Effect) -> None:
        self.stage.seen.append((self.stage.now, self.peer, effect))
        if isinstance(effect, fx.Contribute) and self.bad:
            self.later(lambda m: m.failed(effect.rid, self.bad, self.stage.now))
            return
        super()._perform(effect)


class Stage(World):
    """`silent` drops a message (from, to, envelope); `instead` is another one in its place."""

    def __init__(self, peers: int, seed: int, min_peers: int = 2, words: int = 400, *, secure: bool = False) -> None:
        super().__init__(peers, seed, min_peers, words, secure=secure)
        self.peers = [peer_id(number) for number in range(peers)]
        self.actors = {peer: Actor(self, peer) for peer in self.peers}
        self.hosts.update(self.actors)
        self.seen: list[tuple[float, bytes, fx.Effect]] = []
        self.silent: Callable[[bytes, bytes, Envelope], bool] = lambda a, b, envelope: False
        self.silent_bulk: Callable[[bytes, bytes, str], bool] = lambda a, b, kind: False
        self.instead: Callable[[bytes, bytes, Envelope], Message | None] = lambda a, b, envelope: None

    def post(self, a: bytes, b: bytes, onward: bytes, signed: Signed) -> None:
        envelope, to = parse_envelope(signed), onward or b
        if self.silent(a, to, envelope):
            return
        if (body := self.instead(a, to, envelope)) is not None:
            signed = sign(envelope.sender, body, envelope.rid, envelope.slot)
        super().post(a, b, onward, signed)

    def bulk(self, a: bytes, b: bytes, rid: bytes, kind: str, chunk: int, tokens: frozenset[tuple[bytes, int]]) -> None:
        if not self.silent_bulk(a, b, kind):
            super().bulk(a, b, rid, kind, chunk, tokens)

    def hear(self, peer: bytes, signed: Signed) -> None:
        actor = self.actors[peer]
        actor.perform(actor.running.receive(signed, self.now))

    def attempts(self) -> dict[bytes, Attempt]:
        machines = {peer: actor.machine for peer, actor in self.actors.items()}
        return {peer: m.attempt for peer, m in machines.items() if m is not None and m.attempt is not None}

    def together(self) -> bool:
        """Everybody that is up is in one attempt."""
        attempts = self.attempts()
        return len(attempts) == len(list(self.alive())) and len({a.terms.rid for a in attempts.values()}) == 1

    def notes(self, peer: bytes, event: str, since: float = 0.0) -> list[tuple[bytes | None, str]]:
        notes = [e for at, who, e in self.seen if who == peer and isinstance(e, fx.Note) and at >= since]
        return [(note.peer, note.text) for note in notes if note.event == event]

    def closed_with(self, rid: bytes) -> dict[bytes, str]:
        """How this attempt ended, for whom."""
        return {who: e.reason for _, who, e in self.seen if isinstance(e, fx.Close) and e.rid == rid}

    def said(self, kind: type[Message], rid: bytes) -> list[tuple[float, Envelope]]:
        """When, and what: each message once, however many it went to."""
        sends = {e.signed: at for at, _, e in reversed(self.seen) if isinstance(e, fx.Send)}
        envelopes = [(at, parse_envelope(signed)) for signed, at in sends.items()]
        return sorted(
            [(at, e) for at, e in envelopes if (e.kind, e.rid) == (kind.kind, rid)], key=lambda entry: entry[0]
        )

    def openings(self, since: float) -> list[tuple[bytes, fx.Open]]:
        return [(who, e) for at, who, e in self.seen if isinstance(e, fx.Open) and at >= since]
