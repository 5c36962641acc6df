"""Finding a way to a peer, again and again: direct, then by relay, then direct once more while relayed.

not linked:  dial all its addresses; give it a moment to dial us; then the lower PeerId asks for a relay
relayed:     dial, less and less often; a direct link replaces the relayed one (session.py)
direct:      nothing to do until it ends
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Literal

import trio
from msgspec import Struct

import discod
from discod.errors import Broken, PeerError
from discod.p2p.dial import BackOff, Network, first_greeted
from discod.p2p.link import Link, greet
from discod.p2p.rendezvous import OpenRelay
from discod.p2p.session import Session
from discod.p2p.trust import Trust
from discod.p2p.websocket import SignalingAt, redeem
from discod.wire.links import Welcome

FIRST_RETRY_SECONDS, MOST_RETRY_SECONDS = 0.5, 30.0  # while a peer is not linked
FIRST_UPGRADE_SECONDS, MOST_UPGRADE_SECONDS = 10.0, 300.0  # while it is linked by relay
SOUND_SECONDS = 5.0  # a direct link that ends earlier may be one that always will: another version, a broken peer
THEIR_TURN_SECONDS = 1.5  # for a peer to dial us, before a relay is asked for
RELAY_SECONDS = 12.0  # from asking for a relay to the link


class Settings(Struct, frozen=True):
    """listen: "HOST:PORT" or "off". relay: "auto" (when there is no direct path), "never" or "only"."""

    listen: str = "[::]:7340"
    relay: Literal["auto", "never", "only"] = "auto"
    software: str = discod.__version__


class Paths:
    """How a daemon reaches peers; `attend` uses a greeted link to its end."""

    def __init__(
        self,
        settings: Settings,
        trust: Trust,
        welcome: Welcome,
        network: Network,
        jitter: random.Random,
        attend: Callable[[Link], Awaitable[None]],
    ) -> None:
        self.listening = False  # whether others can dial us
        self._settings, self._trust, self._welcome = settings, trust, welcome
        self._network, self._jitter, self._attend = network, jitter, attend

    async def keep(
        self, session: Session, addresses: Callable[[], list[str]], ask_relay: Callable[[], bool], nursery: trio.Nursery
    ) -> None:
        """Keep one peer linked, by the best path, until cancelled; links run in `nursery`."""
        again = BackOff(self._jitter, FIRST_RETRY_SECONDS, MOST_RETRY_SECONDS)
        upgrade = BackOff(self._jitter, FIRST_UPGRADE_SECONDS, MOST_UPGRADE_SECONDS)
        while True:
            news = session.news
            if session.is_direct:
                if await self._lasted(session):
                    again.reset()
                    upgrade.reset()
                else:
                    await self._pause(session, again.next())
                continue
            if session.link is not None:
                await self._upgrade(session, addresses, upgrade.next(), nursery)
            elif not await self._somehow(session, addresses, ask_relay, nursery):
                with trio.move_on_after(again.next()):
                    await news.wait()

    async def _upgrade(
        self, session: Session, addresses: Callable[[], list[str]], pause: float, nursery: trio.Nursery
    ) -> None:
        """Dial a relayed peer; then wait until that makes sense again: after a while, or at other addresses."""
        link, dialled = session.link, addresses()
        await self._dial(session, dialled, nursery)
        with trio.move_on_after(pause):
            while session.link is link and addresses() == dialled:
                await session.news.wait()

    async def _lasted(self, session: Session) -> bool:
        """Wait until the link in use ends; whether it was worth to be made again at once."""
        link, began = session.link, trio.current_time()
        while session.link is link:
            await session.news.wait()
        return trio.current_time() - began >= SOUND_SECONDS

    async def _pause(self, session: Session, seconds: float) -> None:
        with trio.move_on_after(seconds):
            while session.link is None:
                await session.news.wait()

    async def _somehow(
        self,
        session: Session,
        addresses: Callable[[], list[str]],
        ask_relay: Callable[[], bool],
        nursery: trio.Nursery,
    ) -> bool:
        """One attempt; whether there are new addresses meanwhile, so that the next one should follow at once."""
        started, dialled = trio.current_time(), addresses()
        greeted = await self._dial(session, dialled, nursery)
        if greeted or self.listening:
            with trio.move_on_at(started + THEIR_TURN_SECONDS):
                while session.link is None:
                    await session.news.wait()
                    if addresses() != dialled:
                        return True
        if session.link is None and self._settings.relay != "never" and session.decides:
            session.errors.pop("relay", None)
            if ask_relay():
                await self._await_relay(session)
        return False

    async def _await_relay(self, session: Session) -> None:
        with trio.move_on_after(RELAY_SECONDS):
            while session.link is None and "relay" not in session.errors:
                await session.news.wait()

    async def _dial(self, session: Session, addresses: list[str], nursery: trio.Nursery) -> bool:
        if self._settings.relay == "only":
            session.errors["direct"] = "this peer is set to be relayed only (network.relay)"
            return False
        if not addresses:
            session.errors["direct"] = "it has told no address that can be dialled"
            return False

        async def attempt(address: str) -> Link:
            stream = await self._network.dial(address)
            return await greet(stream, self._trust, self._welcome, "direct", dialling=True, want=session.peer)

        found = await first_greeted(addresses, attempt)
        if isinstance(found, str):
            session.errors["direct"] = found
            return False
        nursery.start_soon(self._attend, found)
        return True

    async def open_relay(self, session: Session, at: SignalingAt, ticket: OpenRelay) -> None:
        """Redeem a ticket and use the link to its end; what goes wrong is in `session.errors`."""
        if session.link is not None or self._settings.relay == "never":
            return
        async with trio.open_nursery() as nursery:
            try:
                link = await self._relayed(at, ticket, nursery)
            except PeerError as error:
                session.errors["relay"] = error.why
                session.poke()
            else:
                await self._attend(link)
            nursery.cancel_scope.cancel()

    async def _relayed(self, at: SignalingAt, ticket: OpenRelay, nursery: trio.Nursery) -> Link:
        conversation = await self._network.call(at, nursery)
        try:
            with trio.fail_after(RELAY_SECONDS):
                stream = await redeem(conversation, ticket.token)
        except (PeerError, trio.TooSlowError) as error:
            await conversation.aclose()
            raise Broken(None, getattr(error, "why", "the peer did not come to the relay")) from None
        return await greet(stream, self._trust, self._welcome, "relay", dialling=ticket.dial, want=ticket.peer)
