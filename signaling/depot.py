"""The federated buffers of a node and the visits of the peers that push to them and pull from them (protocol.md 7).

A visit is one connection, from Enter on: a request is answered before the next is read. Who may enter is what the
signed records of the mesh say; the rules of a buffer come from the task that an admin or the root of the mesh signed.
Updates are seen here, one by one: what hides a row in them is the noise that the task asks for.

Cancellation in the middle of a push leaves nothing, or what the transaction kept; the peer asks when it comes again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path

import msgspec
import structlog
import trio

from discod.errors import Broken, PeerError, Refused
from discod.identity import Identity, Members, peer_id, verify
from discod.wire.codec import MAX_SIGNALING_BYTES, decode, decoder, encode
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
    HostedTask,
    Offer,
    Published,
    Pull,
    Push,
    Pushed,
    Show,
    ToBuffer,
    enter_statement,
    hosted_scope,
    push_statement,
)
from discod.wire.rounds import Head
from discod.wire.signaling import Beat, Denied
from signaling import limits
from signaling.admission import Denial, admitted, root_of
from signaling.buffer import Buffer, Contribution, Effect, NotTaken
from signaling.states import GENESIS, Arrived, NoRoom, Place, Start, States, Version

LOOK_SECONDS, FORGET_SECONDS = 0.05, 60.0  # at least and at most between two looks at the clock
log = structlog.get_logger()
in_thread = trio.to_thread.run_sync
asked = decoder(ToBuffer | Beat)


class Hosted:
    """One buffer with its newest version. Everything that changes it holds the lock until it is on disk."""

    def __init__(self, number: int, place: Place, buffer: Buffer, version: Version) -> None:
        self.number, self.place, self.buffer, self.version = number, place, buffer, version
        self.lock = trio.Lock()
        self.changed = trio.Event()
        self.visitors: dict[bytes, object] = {}  # the latest visit of each peer


class Depot:
    """All buffers of a node; `published` gives the records of a mesh that the lobby knows, by hash."""

    def __init__(
        self,
        identity: Identity,
        directory: Path,
        clock: Callable[[], float],
        published: Callable[[bytes], Mapping[bytes, bytes]],
    ) -> None:
        self.identity, self.clock, self._published = identity, clock, published
        self._states = States(directory)
        self._hosted: dict[tuple[bytes, bytes, int], Hosted] = {}
        self._members: dict[bytes, Members] = {}
        self._known: dict[bytes, set[bytes]] = {}  # hashes of published records by mesh
        self._changed = trio.Event()
        self.arriving = 0  # bytes of updates that are being received
        self.moved = limits.PerMinute(limits.MOVED_BYTES_PER_MINUTE)
        self.asked = limits.PerMinute(limits.VISIT_MESSAGES_PER_MINUTE)
        self.refused: Counter[str] = Counter()  # pushes, by code
        self.denied: Counter[str] = Counter()  # visits, by code
        self.kept = self.versions = 0  # pushes kept, versions made
        self.going_away = False

    def go_away(self) -> None:
        """The node goes down: nobody is made to wait for a version any more."""
        self.going_away = True
        for hosted in self._hosted.values():
            hosted.changed.set()

    def close(self) -> None:
        """Close the file; what was acknowledged is in it."""
        self._states.close()

    def counts(self) -> dict[str, int]:
        """For /healthz and /metrics: open buffers, who is there, updates that wait, pushes refused."""
        hosted = self._hosted.values()
        return {
            "buffers": len(self._hosted),
            "visitors": sum(len(one.visitors) for one in hosted),
            "waiting_updates": sum(len(one.buffer.slots) for one in hosted),
            "refused_pushes": sum(self.refused.values()),
        }

    async def watch(self) -> None:
        """Make the versions that time makes; run this beside the listeners."""
        while True:
            changed, now = self._changed, self.clock()
            for one in [one for one in self._hosted.values() if one.buffer.deadline <= now]:
                with suppress(NoRoom):  # the disk may have room a little later
                    await self.change(one, Buffer.tick)
            wait = min((one.buffer.deadline for one in self._hosted.values()), default=math.inf) - self.clock()
            with trio.move_on_after(min(max(wait, LOOK_SECONDS), FORGET_SECONDS)):
                await changed.wait()
            self.moved.forget_old(self.clock())
            self.asked.forget_old(self.clock())

    async def change(
        self, hosted: Hosted, step: Callable[[Buffer, float], list[Effect]], arrived: Arrived | None = None
    ) -> None:
        """Let the machine take a step and put what it decided on disk, before anybody hears of it.

        Raises: NotTaken, and NoRoom: then the buffer is again what is on disk.
        """
        async with hosted.lock:
            effects = step(hosted.buffer, self.clock())
            try:
                work = partial(self._states.commit, hosted.number, hosted.place, effects, arrived)
                with trio.CancelScope(shield=True):  # memory and disk agree, whoever hangs up meanwhile
                    made = await in_thread(work) if effects else None
            except NoRoom:
                hosted.buffer, former = self._states.load(hosted.number, hosted.buffer.task), hosted.buffer
                hosted.buffer.present |= former.present
                raise
            if made is not None:
                hosted.version = made
                self.versions += 1
                log.info("version.made", version=made.number, updates=len(made.contributors))
                hosted.changed.set()
                hosted.changed = trio.Event()
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def members(self, mesh: bytes, records: Sequence[bytes] = ()) -> Members:
        """The members of a mesh, these and all known records taken in.  Raises: PeerError, NoRoom."""
        if mesh not in self._members:
            root = next((root for data in records if (root := root_of(data, mesh))), None)
            if root is None:
                raise Refused(None, "no record of the root of this mesh was shown")
            kept = await in_thread(self._states.records, mesh)
            self._members.setdefault(mesh, Members(root))
            for data in kept:
                self._members[mesh].add(data)
        published, known = self._published(mesh), self._known.setdefault(mesh, set())
        news = [*records, *(published[hash_] for hash_ in published.keys() - known)]
        new = [data for data in news if self._members[mesh].add(data)]
        known |= published.keys()
        if new:
            await in_thread(self._states.learn, mesh, new)
        return self._members[mesh]

    async def is_known(self, place: Place) -> bool:
        """Whether there is a buffer for this place, on disk at least."""
        key = (place.scope, place.origin, place.floats)
        return key in self._hosted or await in_thread(self._states.is_known, place)

    async def open(self, place: Place, task: HostedTask, start: Start = GENESIS) -> Hosted:
        """The buffer of a task, as it is on disk; a new one begins with `start`.  Raises: NoRoom."""
        key = (place.scope, place.origin, place.floats)
        if key not in self._hosted:
            in_use = {one.number for one in self._hosted.values()}
            number = await in_thread(self._states.open, place, self.clock(), limits.MAX_BUFFERS, in_use, start)
            buffer = await in_thread(self._states.load, number, task)
            version = await in_thread(self._states.version, number)
            self._hosted.setdefault(key, Hosted(number, place, buffer, version))
            self._wake()
        return self._hosted[key]


class Visit:
    """One connection of a peer, which spoke to `host` and was given `nonce`."""

    def __init__(
        self,
        depot: Depot,
        nonce: bytes,
        host: str,
        receive: Callable[[], Awaitable[bytes]],
        send: Callable[[bytes], Awaitable[None]],
    ) -> None:
        self._depot, self._nonce, self._host, self._receive, self._send = depot, nonce, host, receive, send
        self._shown: list[bytes] = []
        self._hosted: Hosted | None = None
        self._key = self._peer = b""
        self._offer: Offer | None = None
        self.busy = False  # a push was welcome and is not yet answered

    async def run(self, first: Show | Enter) -> None:
        """Until the peer leaves or breaks a rule.  Raises: Broken."""
        try:
            await self._answer(first)
            while self._depot.asked.take(self, 1, self._depot.clock()):
                await self._answer(decode(asked, await self._receive(), MAX_SIGNALING_BYTES))
            raise Broken(self._peer, "too many messages in a minute")
        finally:
            await self._leave()

    async def _leave(self) -> None:
        hosted, depot = self._hosted, self._depot
        if hosted is None or hosted.visitors.get(self._peer) is not self:
            return
        del hosted.visitors[self._peer]
        # Others wait for what this changes, and it takes one transaction; without room the deadline tries again.
        with trio.CancelScope(shield=True), suppress(NoRoom):
            await depot.change(hosted, lambda buffer, now: buffer.lost(self._peer, now))

    async def _answer(self, message: ToBuffer | Beat) -> None:
        match message:
            case Beat():
                return await self._say(message)
            case Show(records=records):
                if sum(map(len, self._shown)) > limits.MAX_SHOWN_BYTES:
                    raise Broken(self._peer or None, "too many records")
                self._shown += records
                return None
            case Enter():
                return await self._enter(message)
        if self._hosted is None:
            raise Broken(None, "enter a task first")
        match message:
            case Offer():
                return await self._offered(self._hosted, message)
            case Push():
                try:
                    return await self._push(self._hosted, message)
                finally:
                    self.busy = False
            case Pull():
                return await self._pull(self._hosted, message)

    async def _say(self, message: msgspec.Struct) -> None:
        await self._send(encode(message))

    async def _enter(self, enter: Enter) -> None:
        if self._hosted is not None:
            raise Broken(self._peer, "one task to a connection")
        if not verify(enter.key, ENTER_LABEL, enter_statement(self._nonce, self._host, enter), enter.signature):
            raise Broken(None, "an Enter with a bad signature")
        try:
            place, task, head = await self._admitted(enter)
            hosted = await self._depot.open(place, task, await self._start(place, task, head))
        except NoRoom:
            return await self._deny("no-room", "the node has no room for another buffer")
        except Denial as denial:
            return await self._deny(denial.code, denial.why)
        except PeerError as error:
            return await self._deny("not-a-member", error.why[:300])
        self._key, self._peer, self._hosted = enter.key, peer_id(enter.key), hosted
        hosted.visitors[self._peer] = self
        hosted.buffer.enter(self._peer)
        version = hosted.version
        return await self._say(Entered(version.number, version.state, hosted.buffer.last.get(self._peer, 0)))

    async def _deny(self, code: str, why: str) -> None:
        self._depot.denied[code] += 1
        await self._say(Denied(code, why, b""))

    async def _admitted(self, enter: Enter) -> tuple[Place, HostedTask, Head | None]:
        """Raises: Denial, PeerError, NoRoom."""
        members = await self._depot.members(enter.mesh, [*self._shown, *enter.records])
        task, encoded, head = admitted(enter, members, self._depot.identity.peer_id)
        return Place(enter.mesh, hosted_scope(enter.mesh, encoded), enter.origin, enter.floats), task, head

    async def _start(self, place: Place, task: HostedTask, head: Head | None) -> Start:
        """What a new buffer begins with; a fallback's is the state that its first visitor stands on.

        Raises: Denial, Broken, NoRoom.
        """
        if not task.is_fallback or await self._depot.is_known(place):
            return GENESIS
        if head is None:
            raise Denial("unknown-state", "this node has no versions that follow this state")
        if self._depot.arriving + place.size > limits.MAX_ARRIVING_BYTES:
            raise Denial("busy", "too many updates are arriving")
        await self._say(Bring(0))
        vector = await self._pieces(place.size)
        hash_ = await in_thread(lambda: sha256(vector).digest())
        if hash_ != head.parameters or not await in_thread(_is_finite, vector):
            raise Denial("wrong-state", "a vector that is not that of the named state")
        return Start(head.round, hash_, bytes(vector))

    async def _offered(self, hosted: Hosted, offer: Offer) -> None:
        size, depot = hosted.place.size, self._depot
        if self._peer not in (await depot.members(hosted.place.mesh)).trainers():
            raise Broken(self._peer, "no longer a member of this mesh")
        if offer.size != size:
            return await self._refuse(hosted, offer.seq, "wrong-size", f"{offer.size} bytes, an update has {size}")
        try:
            hosted.buffer.check(self._peer, offer.seq, offer.base, offer.since)
        except NotTaken as error:
            return await self._refuse(hosted, offer.seq, error.code, error.why, error.counted)
        if depot.arriving + size > limits.MAX_ARRIVING_BYTES:
            return await self._refuse(hosted, offer.seq, "busy", "too many updates are arriving")
        if not depot.moved.take(self._peer, size, depot.clock()):
            return await self._refuse(hosted, offer.seq, "quota", "too many bytes in a minute")
        self._offer, self.busy = offer, True
        return await self._say(Bring(offer.seq))

    async def _push(self, hosted: Hosted, push: Push) -> None:
        if (offer := self._offer) is None or offer != Offer(push.seq, push.base, push.since, push.size):
            raise Broken(self._peer, "a push that was not offered")
        self._offer = None
        statement = push_statement(hosted.place.scope, hosted.place.origin, push)
        if not verify(self._key, PUSH_LABEL, statement, push.signature):
            raise Broken(self._peer, "a push with a bad signature")
        vector = await self._pieces(push.size)
        if await in_thread(lambda: sha256(vector).digest()) != push.hash:
            raise Broken(self._peer, "a vector that is not the one that was signed")
        if not await in_thread(_is_finite, vector):
            return await self._refuse(hosted, push.seq, "not-finite", "the update holds NaN or infinity")
        contribution = Contribution(
            self._peer, push.seq, push.base, push.since, push.weight, push.hash, self._depot.clock()
        )
        try:
            arrived = Arrived(vector, push.signature)
            await self._depot.change(hosted, lambda buffer, now: buffer.receive(contribution, now), arrived)
        except NotTaken as error:
            return await self._refuse(hosted, push.seq, error.code, error.why, error.counted)
        except NoRoom:
            return await self._refuse(hosted, push.seq, "no-room", "the disk of the node is full")
        self._depot.kept += 1
        return await self._say(Pushed(push.seq, "", "", hosted.version.number, 0, len(hosted.buffer.slots)))

    async def _pieces(self, size: int) -> bytearray:
        vector = bytearray()
        self._depot.arriving += size
        try:
            while len(vector) < size:
                with trio.move_on_after(limits.PIECE_SECONDS) as patience:
                    piece = await self._receive()
                if patience.cancelled_caught or not 0 < len(piece) <= min(PIECE_BYTES, size - len(vector)):
                    raise Broken(self._peer, "a vector in pieces that are too slow or of a wrong size")
                vector += piece
        finally:
            self._depot.arriving -= size
        return vector

    async def _refuse(self, hosted: Hosted, seq: int, code: str, why: str, counted: int = 0) -> None:
        self._depot.refused[code] += 1
        waiting = len(hosted.buffer.slots)
        await self._say(Pushed(seq, code, why[:300], hosted.version.number, counted, waiting))

    async def _pull(self, hosted: Hosted, pull: Pull) -> None:
        with trio.move_on_after(WAIT_SECONDS if pull.wait else 0):
            while hosted.version.number == pull.version and not self._depot.going_away:
                await hosted.changed.wait()
        version, place = hosted.version, hosted.place
        if version.number <= pull.version:
            return await self._say(Current(version.number, len(hosted.buffer.slots)))
        if not self._depot.moved.take(self._peer, place.size, self._depot.clock()):
            raise Broken(self._peer, "too many bytes in a minute")
        signature = self._depot.identity.sign(VERSION_LABEL, version.state)
        said = (version.number, version.parent, version.hash, place.size, version.contributors, version.weights)
        await self._say(Published(*said, signature))
        for start in range(0, place.size, PIECE_BYTES):
            await self._send(version.total[start : start + PIECE_BYTES])
        return None


def _is_finite(vector: bytearray) -> bool:
    from signaling.mean import is_finite

    return is_finite(vector)
