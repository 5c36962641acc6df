"""A daemon's links: one to every member of every mesh it is in, kept up by all paths there are.

    signaling: Came, addresses, tickets  ->  Presence  ->  Session.poke
    every member: dial all its addresses  ->  greet  ->  Session.attend  ->  LinkUp ... LinkDown
    nothing direct: the lower PeerId asks for a relay; direct is tried again meanwhile and replaces it
    every new link: what records each side lacks (hearsay.py)

A link authenticates a peer, not a mesh: every message is checked against the members of the mesh it speaks of.
"""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable, Sequence

import trio

from discod.errors import PeerError
from discod.identity import Identity, InviteLink, Members, make_addresses
from discod.p2p.addresses import advertised, dialable, split_address
from discod.p2p.dial import WILDCARDS, Network, Tcp
from discod.p2p.events import (
    BulkArrived,
    Event,
    EventQueue,
    LinkDown,
    LinkUp,
    PathChanged,
    Received,
    RecordsChanged,
    SignalingDown,
    SignalingUp,
    Warned,
)
from discod.p2p.hearsay import Hearsay
from discod.p2p.joining import join_mesh
from discod.p2p.link import Link, greet
from discod.p2p.linkinfo import LinkInfo, link_info
from discod.p2p.outbox import Sent
from discod.p2p.paths import Paths, Settings
from discod.p2p.presence import Presence, SignalingInfo
from discod.p2p.rendezvous import OpenRelay
from discod.p2p.session import Session
from discod.p2p.trust import Trust
from discod.p2p.websocket import Asked, SignalingAt, ask_signaling
from discod.wire.codec import PROTOCOL_VERSION
from discod.wire.links import BulkHeader, Known, LinkMessage, Post, Records, Refusal, Welcome

__all__ = [
    "Asked",
    "BulkArrived",
    "LinkDown",
    "LinkInfo",
    "LinkUp",
    "Mesh",
    "PathChanged",
    "Received",
    "RecordsChanged",
    "Settings",
    "SignalingAt",
    "SignalingDown",
    "SignalingInfo",
    "SignalingUp",
    "Warned",
    "ask_signaling",
]

GOODBYE_SECONDS = 2.0
ADDRESSES_SECONDS = 12 * 3600.0  # half of what an address record is good for
MAX_GREETING = 128  # connections from outside that are not links yet


class Mesh:
    """All links of one daemon. `run` it in a nursery; everything else may be called before or meanwhile."""

    def __init__(
        self,
        identity: Identity,
        name: str,
        settings: Settings | None = None,
        *,
        network: Network | None = None,
        jitter: random.Random | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.identity, self.settings, self.port = identity, settings or Settings(), 0
        self.events = EventQueue()
        self.expect: Callable[[bytes, BulkHeader], memoryview | None] = lambda peer, header: None
        self._network, self._jitter, self._clock = network or Tcp(), jitter or random.Random(), clock  # noqa: S311  (spreads waits)
        self.call = self._network.call  # opens a conversation with a signaling node
        self._welcome = Welcome(PROTOCOL_VERSION, self.settings.software, name)
        self._trust = Trust(identity)
        self._paths = Paths(self.settings, self._trust, self._welcome, self._network, self._jitter, self._attend)
        self._sessions: dict[bytes, Session] = {}
        self._keeping: dict[bytes, trio.CancelScope] = {}
        self._presences: dict[bytes, Presence] = {}
        self._down: set[bytes] = set()  # meshes whose SignalingDown was told
        self._hosts: dict[bytes, list[str]] = {}  # per mesh, where its node sees us
        self._hearsay = Hearsay(self.send, lambda: sorted(self.linked_peers()), self._grown)
        self._nursery: trio.Nursery | None = None
        self._greeting = 0
        self._stopping = False

    @property
    def meshes(self) -> dict[bytes, Members]:
        """Mesh id -> its members; read only."""
        return self._hearsay.meshes

    # -- running

    async def run(self, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen, dial, and keep links up until cancelled; then say Bye to all and end.

        Raises: BadConfig when the listening address cannot be ours.
        """
        house = trio.CancelScope(shield=True)  # links outlive our cancellation by a Bye
        async with trio.open_nursery() as outer:
            try:
                await outer.start(self._keep_house, house)
                task_status.started(self.port)
                await trio.sleep_forever()
            finally:
                with trio.move_on_after(GOODBYE_SECONDS, shield=True):
                    await self._say_goodbye()
                house.cancel()

    async def _keep_house(
        self, house: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with house:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self.port = await self._listen(nursery)
                self._paths.listening = self.port != 0
                for presence in self._presences.values():
                    nursery.start_soon(presence.run)
                nursery.start_soon(self._renew_addresses)
                self._refresh()
                task_status.started()
                await trio.sleep_forever()

    async def _say_goodbye(self) -> None:
        self._stopping = True
        links = [session.link for session in self._sessions.values() if session.link is not None]
        for session in self._sessions.values():
            session.say_goodbye("it is stopping")
        for link in links:
            await link.finished.wait()

    async def _listen(self, nursery: trio.Nursery) -> int:
        listen = self.settings.listen
        if listen == "off" or self.settings.relay == "only":
            return 0
        try:
            return await self._network.listen(listen, nursery, self._accept)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        host = listen.rpartition(":")[0]
        port = await self._network.listen(f"{host}:0", nursery, self._accept)
        hint = "stop what uses it, or set network.listen; open this port in the firewall for direct links"
        self.events.note(Warned(f"{listen} is in use: listening on port {port} instead", hint))
        return port

    # -- meshes and records

    def add_mesh(self, members: Members, signaling: Sequence[SignalingAt]) -> None:
        """Be in this mesh from now on: present at its signaling nodes, linked with its members."""
        assert members.mesh_id not in self.meshes, "a mesh is added once"
        self.meshes[members.mesh_id] = members
        presence = Presence(self.identity, members, signaling, self, self._network, self._jitter, self._clock)
        self._presences[members.mesh_id] = presence
        if self._nursery is not None:
            self._nursery.start_soon(presence.run)
        self._refresh()
        for peer in self.linked_peers():
            self._hearsay.greet(peer)

    def publish(self, mesh: bytes, *records: bytes) -> bool:
        """Add own records to a mesh and pass them on; say whether something was new.  Raises: PeerError."""
        return self._hearsay.learn(self.meshes[mesh], records)

    async def join(
        self,
        link: InviteLink,
        name: str,
        *,
        report: Callable[[str], None] = lambda text: None,
        wait_seconds: float = 60.0,
    ) -> Members:
        """Join the link's mesh and be in it.  Raises: BadInvite, SignalingUnreachable, TimedOut."""
        members = await join_mesh(self.identity, link, name, self._network, self._clock, report, wait_seconds)
        if members.mesh_id in self.meshes:
            self.publish(members.mesh_id, *members.records())
            return self.meshes[members.mesh_id]
        self.add_mesh(members, [SignalingAt.of_link(link)])
        self.events.note(RecordsChanged(members.mesh_id))
        return members

    def _grown(self, members: Members) -> None:
        self.events.note(RecordsChanged(members.mesh_id))
        if (presence := self._presences.get(members.mesh_id)) is not None:
            presence.changed()
        self._refresh()
        for peer in members.members():
            self.came(peer)

    def _refresh(self) -> None:
        """Members may have come or gone: whom TLS lets in, and with whom links are kept."""
        keys = {peer: m.public_key(peer) for m in self.meshes.values() for peer in m.members()}
        keys.pop(self.identity.peer_id, None)
        self._trust.set_keys(key for key in keys.values() if key is not None)
        for peer in keys.keys() - self._sessions.keys():
            self._sessions[peer] = Session(self.identity.peer_id, peer, self, self._tell)
        for peer in self._sessions.keys() - keys.keys():
            self._sessions.pop(peer).drop("it is no longer a member")
            if (scope := self._keeping.pop(peer, None)) is not None:
                scope.cancel()
        if self._nursery is not None:
            for peer in self._sessions.keys() - self._keeping.keys():
                self._keeping[peer] = trio.CancelScope()
                self._nursery.start_soon(self._keep, self._sessions[peer], self._keeping[peer], self._nursery)

    # -- talking

    def send(self, peer: bytes, message: LinkMessage) -> bool:
        """Queue a message; never blocks. False when the peer is not linked; one that does not read is dropped."""
        session = self._sessions.get(peer)
        return session is not None and session.send(message)

    def send_bulk(self, peer: bytes, header: BulkHeader, data: bytes | memoryview, *, sent: Sent | None = None) -> bool:
        """Queue (header.size,) bytes, which must not change until `sent` was called with whether all left."""
        view = memoryview(data).cast("B")
        assert len(view) == header.size, "the header announces the size"
        session = self._sessions.get(peer)
        return session is not None and session.send_bulk(header, view, sent)

    def drop(self, peer: bytes, why: str) -> None:
        """End the link to a peer; it is dialled again later."""
        if (session := self._sessions.get(peer)) is not None:
            session.drop(why)

    def linked_peers(self) -> frozenset[bytes]:
        """The PeerIds that are linked now."""
        return frozenset(peer for peer, session in self._sessions.items() if session.is_up)

    def linked(self) -> dict[bytes, LinkInfo]:
        """PeerId -> its link."""
        return {peer: link_info(s.link) for peer, s in self._sessions.items() if s.link is not None and s.is_up}

    def errors(self) -> dict[bytes, str]:
        """PeerId -> why it is not linked, or only by relay, in words."""
        return {peer: session.trouble for peer, session in self._sessions.items() if session.trouble}

    def nodes(self, mesh: bytes) -> tuple[SignalingAt, ...]:
        """The signaling nodes of a mesh."""
        return self._presences[mesh].nodes

    def signaling(self) -> dict[bytes, SignalingInfo]:
        """Mesh id -> how we stand with its signaling node."""
        return {mesh: presence.info for mesh, presence in self._presences.items()}

    # -- what links deliver

    async def received(self, link: Link, message: LinkMessage) -> None:
        """Raises: Refused, Broken."""
        match message:
            case Known():
                self._hearsay.known(link.peer, message)
            case Records():
                self._hearsay.records(link.peer, message)
            case Post() | Refusal():
                await self.events.put(Received(link.peer, message))

    async def expected(self, link: Link, header: BulkHeader) -> memoryview | None:
        """Asked once the daemon has handled everything this peer said before."""
        await self.events.settled()
        return self.expect(link.peer, header)

    async def arrived(self, link: Link, header: BulkHeader, digest: bytes) -> None:
        """All its bytes are in place."""
        await self.events.put(BulkArrived(link.peer, header, digest))

    # -- links come and go

    async def _accept(self, stream: trio.abc.Stream) -> None:
        if self._greeting >= MAX_GREETING or self._stopping:
            return await trio.aclose_forcefully(stream)
        self._greeting += 1
        try:
            link = await greet(stream, self._trust, self._welcome, "direct", dialling=False)
        except PeerError:
            return None  # a stranger, or nobody
        finally:
            self._greeting -= 1
        return await self._attend(link)

    async def _attend(self, link: Link) -> None:
        session = self._sessions.get(link.peer)
        if session is None or self._stopping:
            return await link.close("not now" if session else "not a member")
        try:
            await session.attend(link)
        except PeerError as error:
            session.errors[link.path] = error.why
            session.poke()
        return None

    async def _keep(self, session: Session, scope: trio.CancelScope, nursery: trio.Nursery) -> None:
        def ask_relay() -> bool:
            return any(presence.ask_relay(session.peer) for presence in self._presences_of(session.peer))

        with scope:
            await self._paths.keep(session, lambda: self._addresses(session.peer), ask_relay, nursery)

    async def _tell(self, event: Event) -> None:
        if isinstance(event, LinkUp):
            self._hearsay.greet(event.peer)
        await self.events.put(event)

    def _addresses(self, peer: bytes) -> list[str]:
        """Where to dial it, but not where we are found ourselves: most homes have the same private addresses."""
        found: dict[str, None] = {}
        for presence in self._presences_of(peer):
            local, now = any(at.is_loopback for at in presence.nodes), self._clock()
            theirs = dialable(presence.members.addresses(peer, now), loopback=local)
            own = presence.members.addresses(self.identity.peer_id, now)
            found |= dict.fromkeys(entry for entry in theirs if entry not in own)
        return list(found)

    def _presences_of(self, peer: bytes) -> list[Presence]:
        return [presence for presence in self._presences.values() if presence.members.is_member(peer)]

    # -- what presence asks of us

    def entered(self, members: Members, at: SignalingAt, hosts: list[str]) -> None:
        """We are present at a node, which sees us at these hosts."""
        self._down.discard(members.mesh_id)
        self._hosts[members.mesh_id] = hosts
        self.events.note(SignalingUp(members.mesh_id, at.url))
        self._advertise(members, at)

    def left(self, members: Members, at: SignalingAt, why: str) -> None:
        """We are no longer, or could not be."""
        if members.mesh_id not in self._down:
            self._down.add(members.mesh_id)
            self.events.note(SignalingDown(members.mesh_id, at.url, why))

    def learn(self, members: Members, records: Sequence[bytes]) -> None:
        """The node passed these on.  Raises: PeerError."""
        self._hearsay.learn(members, records)

    def came(self, peer: bytes) -> None:
        """A peer is present, or says something new about itself: if it is not linked directly, it may be tried now."""
        if (session := self._sessions.get(peer)) is not None and not session.is_direct:
            session.poke()

    def relay_offered(self, at: SignalingAt, ticket: OpenRelay) -> None:
        """A relay to a peer can be opened."""
        session = self._sessions.get(ticket.peer)
        if self._nursery is not None and session is not None and not self._stopping:
            self._nursery.start_soon(self._paths.open_relay, session, at, ticket)

    def relay_refused(self, peer: bytes, why: str) -> None:
        """It cannot."""
        if (session := self._sessions.get(peer)) is not None:
            session.errors["relay"] = why
            session.poke()

    def _advertise(self, members: Members, at: SignalingAt) -> None:
        """Sign where we listen, if that is news or old."""
        me, now = self.identity.peer_id, self._clock()
        if not members.is_member(me):
            return
        host = split_address(self.settings.listen)[0] if self.port else ""
        hosts = self._hosts.get(members.mesh_id, []) if host in WILDCARDS else [host]
        entries = advertised(hosts, self.port, loopback=at.is_loopback)  # none with port 0
        if entries != members.addresses(me, now + ADDRESSES_SECONDS):
            record = make_addresses(self.identity, members.mesh_id, entries, seq=int(now * 1000), now=int(now))
            self._hearsay.learn(members, [record])

    async def _renew_addresses(self) -> None:
        while True:
            await trio.sleep(ADDRESSES_SECONDS / 4)
            for presence in self._presences.values():
                self._advertise(presence.members, presence.info.at)
