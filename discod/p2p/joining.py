"""Joining a mesh: one call to the link's signaling node, with the Newcomer machine on this end of it."""

from __future__ import annotations

import os
from collections.abc import Callable

import trio

from discod.errors import PeerError, Refused, SignalingUnreachable, TimedOut, UserError
from discod.identity import Identity, InviteLink, Members
from discod.p2p.dial import Network
from discod.p2p.newcomer import Effect, Failed, Joined, Newcomer, Progress
from discod.p2p.rendezvous import Tell
from discod.p2p.websocket import TRY_NODE, Conversation, SignalingAt
from discod.wire.codec import MAX_SIGNALING_BYTES, decode, encode
from discod.wire.signaling import from_node

AGAIN_SECONDS = 2.0  # after a conversation that broke off
KEEP_IT_RUNNING = "one member's daemon must be running and present; then join again with the same link"

Outcome = Members | UserError | None


async def join_mesh(
    identity: Identity,
    link: InviteLink,
    name: str,
    network: Network,
    clock: Callable[[], float],
    report: Callable[[str], None],
    wait_seconds: float,
) -> Members:
    """Become a member of the link's mesh; a call that breaks off is made again while there is time.

    Raises:
        BadInvite, SignalingUnreachable, TimedOut. Cancellation leaves nothing behind, except perhaps a membership
        that a member has admitted: the same link works again for this identity.
    """
    attempt = _Attempt(identity, link, name, clock, report)
    outcome: Outcome = None
    with trio.move_on_after(wait_seconds):
        while outcome is None:
            outcome = await attempt.call(network)
            if outcome is None:
                await trio.sleep(AGAIN_SECONDS)
    if outcome is None:
        outcome = attempt.out_of_time(wait_seconds)
    if isinstance(outcome, UserError):
        raise outcome
    return outcome


class _Attempt:
    def __init__(
        self, identity: Identity, link: InviteLink, name: str, clock: Callable[[], float], report: Callable[[str], None]
    ) -> None:
        self._identity, self._link, self._name = identity, link, name
        self._clock, self._report = clock, report
        self._machine: Newcomer | None = None
        self._why = "it does not answer"

    async def call(self, network: Network) -> Outcome:
        """One conversation; None when it broke off."""
        outcome: Outcome = None
        at = SignalingAt.of_link(self._link)
        async with trio.open_nursery() as nursery:
            try:
                conversation = await network.call(at, nursery)
                try:
                    outcome = await self._converse(conversation)
                finally:
                    await conversation.aclose()
            except PeerError as error:
                self._why = error.why
            nursery.cancel_scope.cancel()
        return outcome

    def out_of_time(self, seconds: float) -> UserError:
        """What to tell when patience ended."""
        if self._machine is None:
            return SignalingUnreachable(f"no signaling node at {self._link.address}: {self._why}", TRY_NODE)
        return TimedOut(f"not joined within {seconds:.0f} s: {self._machine.waiting_for}", KEEP_IT_RUNNING)

    async def _converse(self, conversation: Conversation) -> Outcome:
        machine = Newcomer(self._identity, self._link, self._name, os.urandom(16))
        effects = machine.start(self._clock())
        while True:
            for effect in effects:
                if (outcome := await self._perform(conversation, effect)) is not None:
                    return outcome
            effects = await self._next(conversation, machine)
            self._machine = machine  # the node answers

    async def _next(self, conversation: Conversation, machine: Newcomer) -> list[Effect]:
        """Raises: Broken."""
        with trio.move_on_after(max(machine.deadline - self._clock(), 0)):
            message = decode(from_node, await conversation.receive(), MAX_SIGNALING_BYTES)
            try:
                return machine.receive(message, self._clock())
            except Refused:
                return []
        return machine.tick(self._clock())

    async def _perform(self, conversation: Conversation, effect: Effect) -> Outcome:
        match effect:
            case Tell(message=message):
                await conversation.send(encode(message))
            case Progress(text=text):
                self._report(text)
            case Joined(members=members):
                return members
            case Failed(error=error):
                return error
        return None
