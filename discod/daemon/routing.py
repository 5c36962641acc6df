"""Which run a message belongs to: the scope in a signed envelope, or in a bulk header, says it.

    mesh event  ->  Router.route  ->  the Sink registered for its scope
    link up or down, a Refusal    ->  every Sink
    a Post for somebody else      ->  handed on, when both ends are trainers of the scope's mesh

Nothing is verified here beyond that: the run's own machine checks signature, membership and phase. What is remembered
is who was heard in a scope, so that one sees who accepted a task before accepting it oneself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from discod.p2p.mesh import BulkArrived, LinkDown, LinkUp, Received
from discod.wire.codec import digest
from discod.wire.links import BulkHeader, Post, Refusal
from discod.wire.rounds import Advert, Envelope, parse_envelope

SCOPE_LABEL = "discod/scope/1"

RunEvent = LinkUp | LinkDown | Received | BulkArrived


def scope_of(mesh: bytes, task: bytes) -> bytes:
    """The (32,) name of one task in one mesh, in every envelope of its rounds."""
    return digest(SCOPE_LABEL, mesh, task)


class Sink(Protocol):
    """What a run offers to the network. Both are called in the trio thread and return at once."""

    def deliver(self, event: RunEvent) -> None:
        """Take a link event, or a Post, Refusal or bulk transfer of this scope.

        Raises: Refused or Broken, when the sender is to be answered or its link dropped at once.
        """

    def expect(self, peer: bytes, header: BulkHeader) -> memoryview | None:
        """Where this transfer goes, (size,) writable bytes; None when it is not expected."""


class Router:
    """Scope -> Sink, and who was heard in which scope."""

    def __init__(self, me: bytes, pass_on: Callable[[bytes, Post], Any]) -> None:
        self._me = me
        self._pass_on = pass_on
        self._sinks: dict[bytes, Sink] = {}
        self._allowed: dict[bytes, Callable[[], frozenset[bytes]]] = {}
        self._heard: dict[bytes, dict[bytes, None]] = {}

    def know(self, scope: bytes, trainers: Callable[[], frozenset[bytes]]) -> None:
        """A task that exists: who may speak in its scope, asked anew each time."""
        self._allowed[scope] = trainers

    def register(self, scope: bytes, sink: Sink) -> None:
        """From now on `sink` gets what belongs to `scope`."""
        assert scope not in self._sinks, "one run to a scope"
        self._sinks[scope] = sink

    def unregister(self, scope: bytes) -> None:
        """The run is over; what still comes for it is dropped."""
        self._sinks.pop(scope, None)

    def heard(self, scope: bytes) -> list[bytes]:
        """The PeerIds whose Adverts arrived in this scope since the daemon started, in order of the first."""
        return list(self._heard.get(scope, ()))

    def expect(self, peer: bytes, header: BulkHeader) -> memoryview | None:
        """Where a bulk transfer goes; None refuses it."""
        sink = self._sinks.get(header.scope)
        return sink.expect(peer, header) if sink is not None and self._may(header.scope, peer) else None

    def route(self, event: RunEvent) -> bool:
        """Hand one event to whom it concerns; whether it said who accepted a task for the first time.

        Raises: Refused or Broken, naming the peer that sent it.
        """
        match event:
            case BulkArrived(header=header):
                self._to_scope(header.scope, event)
            case Received(message=Post() as post):
                return self._post(event, post)
            case LinkUp() | LinkDown() | Received(message=Refusal()):
                for sink in list(self._sinks.values()):
                    sink.deliver(event)
        return False

    def _post(self, event: Received, post: Post) -> bool:
        envelope = parse_envelope(post.signed)
        if not self._may(envelope.scope, event.peer):
            return False
        if post.to and post.to != self._me:
            own = envelope.sender == event.peer  # nobody has words passed on in another's name
            if own and self._may(envelope.scope, post.to):
                self._pass_on(post.to, Post(b"", post.signed))
            return False
        news = self._note(envelope, event.peer)
        self._to_scope(envelope.scope, event)
        return news

    def _note(self, envelope: Envelope, peer: bytes) -> bool:
        if envelope.kind != Advert.kind or envelope.sender != peer:
            return False
        heard = self._heard.setdefault(envelope.scope, {})
        news = peer not in heard
        heard[peer] = None
        return news

    def _to_scope(self, scope: bytes, event: RunEvent) -> None:
        if (sink := self._sinks.get(scope)) is not None:
            sink.deliver(event)

    def _may(self, scope: bytes, peer: bytes) -> bool:
        trainers = self._allowed.get(scope)
        return trainers is not None and peer in trainers()
