"""Presence of one mesh at its signaling nodes: call, drive the Rendezvous machine, and call again when that ends.

Several nodes may be listed; the first that answers is used. Links do not depend on any of this once they are up.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from typing import Protocol

import trio
from msgspec import Struct

from discod.errors import Broken, PeerError, Refused
from discod.identity import Identity, Members
from discod.p2p.dial import BackOff, Network
from discod.p2p.rendezvous import (
    Came,
    Effect,
    Ended,
    Entered,
    Gone,
    Learn,
    NoRelay,
    OpenRelay,
    Rendezvous,
    State,
    Tell,
)
from discod.p2p.websocket import Conversation, SignalingAt
from discod.wire.codec import MAX_SIGNALING_BYTES, decode, encode
from discod.wire.signaling import FromNode, Relay, ToNode, from_node

FIRST_WAIT_SECONDS = 0.5
MOST_WAIT_SECONDS = 30.0
INBOX = 64
SEND_SECONDS = 15.0


class SignalingInfo(Struct, frozen=True):
    """How we stand with the signaling node of one mesh; `error` is the last one while not connected."""

    at: SignalingAt
    connected: bool
    rtt_seconds: float | None
    error: str | None
    relay: bool
    present: frozenset[bytes]


class Hall(Protocol):
    """What presence asks of the mesh it belongs to."""

    def entered(self, members: Members, at: SignalingAt, hosts: list[str]) -> None:
        """We are listed; our connection is seen as coming from these hosts."""

    def left(self, members: Members, at: SignalingAt, why: str) -> None:
        """We are not."""

    def learn(self, members: Members, records: Sequence[bytes]) -> None:
        """The node passed these on.  Raises: PeerError."""

    def came(self, peer: bytes) -> None:
        """A peer is present."""

    def relay_offered(self, at: SignalingAt, ticket: OpenRelay) -> None:
        """A relay to a peer can be opened."""

    def relay_refused(self, peer: bytes, why: str) -> None:
        """It cannot."""


class Presence:
    """One mesh; `run` it for as long as the mesh is open."""

    def __init__(
        self,
        identity: Identity,
        members: Members,
        nodes: Sequence[SignalingAt],
        hall: Hall,
        network: Network,
        jitter: random.Random,
        clock: Callable[[], float],
    ) -> None:
        self.members, self.nodes = members, tuple(nodes)
        self._identity, self._hall, self._network, self._clock = identity, hall, network, clock
        self._back_off = BackOff(jitter, FIRST_WAIT_SECONDS, MOST_WAIT_SECONDS)
        self._machine: Rendezvous | None = None
        self._relay = False
        self._why: str | None = "not called yet"
        self._at = self.nodes[0] if self.nodes else SignalingAt("", b"")
        self._inbox, self._letters = trio.open_memory_channel[FromNode | ToNode | None](INBOX)

    @property
    def info(self) -> SignalingInfo:
        """The state of things."""
        machine = self._machine
        up = machine is not None and machine.state is State.PRESENT
        present = frozenset(machine.present) if machine is not None else frozenset()
        rtt = machine.rtt_seconds if machine is not None else None
        return SignalingInfo(self._at, up, rtt, None if up else self._why, self._relay, present)

    def changed(self) -> None:
        """Records of the mesh changed: the node may have to know."""
        self._post(None)

    def ask_relay(self, peer: bytes) -> bool:
        """Ask for a relay to a peer; False when it is not present or the node does not relay."""
        return self._relay and peer in self.info.present and self._post(Relay(peer))

    def _post(self, letter: ToNode | None) -> bool:
        if self._machine is None:
            return False
        try:
            self._inbox.send_nowait(letter)
        except (trio.WouldBlock, trio.ClosedResourceError):
            return False  # too much waits, or the conversation has just ended
        return True

    async def run(self) -> None:
        """For ever."""
        while self.nodes:
            for at in self.nodes:
                self._at = at
                if await self._call(at):
                    self._back_off.reset()
            await trio.sleep(self._back_off.next())
        await trio.sleep_forever()

    async def _call(self, at: SignalingAt) -> bool:
        """One conversation with one node, to its end; whether we were present."""
        was_present, self._why = False, None
        async with trio.open_nursery() as nursery:
            try:
                conversation = await self._network.call(at, nursery)
            except Broken as error:
                self._why = error.why
            else:
                try:
                    was_present = await self._converse(at, conversation, nursery)
                finally:
                    self._machine, self._relay = None, False
                    await conversation.aclose()
            nursery.cancel_scope.cancel()
        self._hall.left(self.members, at, self._why or "")
        return was_present

    async def _converse(self, at: SignalingAt, conversation: Conversation, nursery: trio.Nursery) -> bool:
        machine = Rendezvous(self._identity, self.members, at.address, at.key, os.urandom(16))
        self._machine, was_present = machine, False
        self._inbox, self._letters = trio.open_memory_channel[FromNode | ToNode | None](INBOX)
        nursery.start_soon(self._listen, conversation, self._inbox)
        effects = machine.start(self._clock())
        while await self._perform(at, conversation, effects):
            was_present = was_present or machine.state is State.PRESENT
            effects = await self._next(machine)
        return was_present or machine.state is State.PRESENT

    async def _next(self, machine: Rendezvous) -> list[Effect]:
        """Wait for a letter or the machine's deadline, and ask the machine what follows."""
        letter: FromNode | ToNode | None
        with trio.move_on_after(max(machine.deadline - self._clock(), 0)):
            try:
                letter = await self._letters.receive()
            except trio.EndOfChannel:
                return machine.lost()
            if letter is None:
                return machine.changed(self._clock())
            if isinstance(letter, Relay):
                return [Tell(letter)]
            try:
                return machine.receive(letter, self._clock())  # type: ignore[arg-type]  # only Relay goes the other way
            except Refused:
                return []  # of one peer, through the node: ours go on
            except Broken as error:
                return [Ended(error.why)]
        return machine.tick(self._clock())

    async def _listen(
        self, conversation: Conversation, inbox: trio.MemorySendChannel[FromNode | ToNode | None]
    ) -> None:
        async with inbox:
            while True:
                try:
                    message = decode(from_node, await conversation.receive(), MAX_SIGNALING_BYTES)
                except PeerError as error:
                    self._why = error.why
                    return
                await inbox.send(message)

    async def _perform(self, at: SignalingAt, conversation: Conversation, effects: list[Effect]) -> bool:
        """Do what the machine wants; False when the conversation is over."""
        for effect in effects:
            match effect:
                case Tell(message=message):
                    if not await self._send(conversation, encode(message)):
                        return False
                case Ended(why=why):
                    self._why = self._why or why
                    return False
                case Entered(relay=relay, seen=seen):
                    self._relay, self._why = relay, None
                    self._hall.entered(self.members, at, [conversation.local_host, seen])
                case _:
                    self._hand_on(at, effect)
        return True

    def _hand_on(self, at: SignalingAt, effect: Effect) -> None:
        match effect:
            case Learn(records=records):
                try:
                    self._hall.learn(self.members, records)
                except PeerError:
                    return  # the node, or a peer through it, said something false; nothing of it is kept
            case Came(peer=peer):
                self._hall.came(peer)
            case OpenRelay():
                self._hall.relay_offered(at, effect)
            case NoRelay(peer=peer, why=why):
                self._hall.relay_refused(peer, why)
            case Gone():
                return

    async def _send(self, conversation: Conversation, data: bytes) -> bool:
        with trio.move_on_after(SEND_SECONDS):
            try:
                await conversation.send(data)
            except Broken as error:
                self._why = error.why
                return False
            return True
        self._why = "the signaling node does not read what we send"
        return False
