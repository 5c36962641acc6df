"""A member's conversation with the node that hosts the federated buffer of a task (wire/federated.py draws it).

Vectors are bytes here. A request has its answer before the next is sent; `Hosting` waits no longer than ANSWER_SECONDS
for anything, a Pull that waits apart. What the node says of versions is believed only with its signature, and only from
the key that the task names: another node at this address ends the conversation.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec
import trio

from discod.errors import Broken, Refused
from discod.identity import Identity, verify
from discod.p2p.rendezvous import PART_BYTES, hello_trouble, in_parts
from discod.p2p.websocket import Conversation
from discod.wire.codec import MAX_SIGNALING_BYTES, PROTOCOL_VERSION, decode, decoder, encode
from discod.wire.federated import (
    ENTER_LABEL,
    PIECE_BYTES,
    PUSH_LABEL,
    VERSION_LABEL,
    WAIT_SECONDS,
    Bring,
    Current,
    Enter,
    Entered,
    FromBuffer,
    Offer,
    Published,
    Pull,
    Push,
    Pushed,
    Show,
    enter_statement,
    push_statement,
    version_state,
)
from discod.wire.signaling import Beat, Denied, Hello, Knock

ANSWER_SECONDS = 30.0
NOT_A_MEMBER, UNKNOWN_STATE = "not-a-member", "unknown-state"
answer = decoder(FromBuffer | Hello | Beat | Denied)


class Stay(NamedTuple):
    """What one goes to a node for: a task (its offer and (32,) scope) in a mesh, from `origin`, `floats` long.

    In a fallback `head` is the encoded Head of `origin` and `vector` its parameters, or both are empty: then the node
    must know them, for this peer has moved on.
    """

    mesh: bytes
    scope: bytes
    offer: bytes
    origin: bytes
    floats: int
    head: bytes = b""
    vector: bytes = b""


class Turned(Refused):
    """The node does not let us in; `code` says why."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(None, why)
        self.code = code


class NewVersion(NamedTuple):
    """What the node published, its signature and hash checked: `total` is the vector, `state` the version's name."""

    said: Published
    state: bytes
    total: bytes


class Hosting:
    """One conversation; `enter` first. Not to be used by two tasks at a time."""

    def __init__(self, conversation: Conversation, identity: Identity, host: str, node: bytes, stay: Stay) -> None:
        self._line, self._identity, self._host, self._node, self._stay = conversation, identity, host, node, stay
        self.key = b""  # of the node, proven in its Hello
        self.bytes_up = self.bytes_down = 0  # vectors

    async def enter(self, own: tuple[bytes, ...], everything: Sequence[bytes], now: float) -> Entered:
        """Be let in with our own records, or with all of the mesh if these do not say why.  Raises: Turned, Broken."""
        nonce = os.urandom(16)
        await self._send(Knock(PROTOCOL_VERSION, nonce, self._host))
        hello = await self._answer(Hello)
        if trouble := hello_trouble(hello, self._node, nonce, self._host):
            raise Broken(None, trouble)
        self.key = hello.key
        enter = self._signed(hello.nonce, own, now)
        await self._send(enter)
        try:
            return await self._entered()
        except Turned as refusal:
            if refusal.code != NOT_A_MEMBER:
                raise
        for part in in_parts(list(everything), PART_BYTES):
            await self._send(Show(part))
        await self._send(enter)
        return await self._entered()

    async def _entered(self) -> Entered:
        said: Entered | Bring = await self._answer(Entered, Bring)
        if isinstance(said, Entered):
            return said
        if len(self._stay.vector) != 4 * self._stay.floats:
            raise Broken(None, "the node asks for a state that it was not offered")
        await self._pieces(self._stay.vector)
        entered: Entered = await self._answer(Entered)
        return entered

    def _signed(self, nonce: bytes, own: tuple[bytes, ...], now: float) -> Enter:
        stay, me = self._stay, self._identity
        enter = Enter(stay.mesh, me.public, int(now), own, stay.offer, stay.origin, stay.floats, bytes(64), stay.head)
        signature = me.sign(ENTER_LABEL, enter_statement(nonce, self._host, enter))
        return msgspec.structs.replace(enter, signature=signature)

    async def offer(self, offer: Offer) -> Bring | Pushed:
        """May this be pushed?  Raises: Broken."""
        await self._send(offer)
        said: Bring | Pushed = await self._answer(Bring, Pushed)
        return said

    async def push(self, offer: Offer, weight: int, vector: bytes, hash_: bytes) -> Pushed:
        """The vector of an offer that was welcome; `hash_` is its SHA-256.  Raises: Broken."""
        unsigned = Push(offer.seq, offer.base, offer.since, weight, offer.size, hash_, bytes(64))
        statement = push_statement(self._stay.scope, self._stay.origin, unsigned)
        await self._send(msgspec.structs.replace(unsigned, signature=self._identity.sign(PUSH_LABEL, statement)))
        await self._pieces(vector)
        said: Pushed = await self._answer(Pushed)
        return said

    async def _pieces(self, vector: bytes) -> None:
        for start in range(0, len(vector), PIECE_BYTES):
            await self._say(vector[start : start + PIECE_BYTES])
        self.bytes_up += len(vector)

    async def pull(self, version: int, *, wait: bool = False) -> NewVersion | Current:
        """What is newer than `version`; with `wait` after WAIT_SECONDS at most.  Raises: Broken."""
        await self._send(Pull(version, wait))
        said = await self._answer(Published, Current, seconds=ANSWER_SECONDS + WAIT_SECONDS * wait)
        return said if isinstance(said, Current) else await self._vector(said, version)

    async def _vector(self, said: Published, version: int) -> NewVersion:
        stay, size = self._stay, 4 * self._stay.floats
        if said.size != size or said.version <= version or len(said.contributors) != len(said.weights):
            raise Broken(None, "the node published what was not asked for")
        state = version_state(stay.scope, stay.origin, said.version, said.parent, said.hash)
        if not verify(self.key, VERSION_LABEL, state, said.signature):
            raise Broken(None, "a version that the node did not sign")
        total = bytearray()
        while len(total) < size:
            piece = await self._hear(ANSWER_SECONDS)
            if not 0 < len(piece) <= min(PIECE_BYTES, size - len(total)):
                raise Broken(None, "a vector in pieces of a wrong size")
            total += piece
        self.bytes_down += size
        if await trio.to_thread.run_sync(lambda: sha256(total).digest()) != said.hash:
            raise Broken(None, "a vector that is not the one the node signed")
        return NewVersion(said, state, bytes(total))

    async def beat(self) -> None:
        """Say that we are still here.  Raises: Broken."""
        await self._send(Beat(0))
        await self._answer(Beat)

    async def _send(self, message: msgspec.Struct) -> None:
        await self._say(encode(message))

    async def _say(self, data: bytes) -> None:
        with trio.move_on_after(ANSWER_SECONDS):
            return await self._line.send(data)
        raise Broken(None, "the node does not read what we send")

    async def _hear(self, seconds: float) -> bytes:
        with trio.move_on_after(seconds):
            return await self._line.receive()
        raise Broken(None, "the node does not answer")

    async def _answer(self, *kinds: type[msgspec.Struct], seconds: float = ANSWER_SECONDS) -> Any:
        said = decode(answer, await self._hear(seconds), MAX_SIGNALING_BYTES)
        if isinstance(said, Denied):
            raise Turned(said.code, said.why)
        if not isinstance(said, kinds):
            raise Broken(None, "the node answered what was not asked")
        return said
