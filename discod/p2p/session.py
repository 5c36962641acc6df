"""All that concerns one peer: the link in use, what waits to be sent, and the choice between two links.

Both sides dial, so two links may come up. The lower PeerId decides: it says Use on the one it keeps and closes others.
A better path (direct instead of relay) replaces the link in use: each side says Moved as its last frame on the old
one, and sends on the new one from then on, so no message is lost, doubled or overtaken. If the old one breaks before
that, the peer is reported lost and linked anew.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from discod.errors import Broken
from discod.p2p.events import Event, LinkDown, LinkUp, PathChanged
from discod.p2p.link import Link, Receiver
from discod.p2p.outbox import Outbox, Sent, Transfer
from discod.wire.codec import encode
from discod.wire.links import BulkHeader, Bye, LinkMessage, Use

MOVE_SECONDS = 600.0  # for the transfer under way on the old path, as long as it gets on (link.py)
PREFERENCE = {"direct": 0, "relay": 1}


class Session:
    """One peer, linked or not."""

    def __init__(self, me: bytes, peer: bytes, receiver: Receiver, tell: Callable[[Event], Awaitable[None]]) -> None:
        self.peer = peer
        self.link: Link | None = None
        self.errors: dict[str, str] = {}  # path -> why it did not work, the last time
        self.last_seen: float | None = None
        self.decides = me < peer
        self._receiver, self._tell = receiver, tell
        self._outbox = Outbox()
        self._up = False  # LinkUp was told
        self._changed = trio.Event()
        self._deciding = trio.Lock()

    def send(self, message: LinkMessage) -> bool:
        """Queue a message; False when there is no link, or the peer does not read (it is dropped then)."""
        if self.link is None or not self._up:
            return False
        if self._outbox.put(encode(message)):
            return True
        self.link.end("it does not read what we send")
        return False

    def send_bulk(self, header: BulkHeader, data: memoryview, sent: Sent | None) -> bool:
        """Queue a transfer; `sent` is called once, unless this returns False."""
        if self.link is None or not self._up:
            return False
        if self._outbox.put_bulk(Transfer(header, data, sent)):
            return True
        self.link.end("it does not read what we send")
        return False

    def say_goodbye(self, why: str) -> None:
        """Let the link end with a Bye once what is being written is out."""
        if self.link is not None:
            self._outbox.put_last(encode(Bye(why)))

    def drop(self, why: str) -> None:
        """End the link at once."""
        if self.link is not None:
            self.link.end(why)

    @property
    def is_up(self) -> bool:
        """Whether messages can be sent."""
        return self._up and self.link is not None

    @property
    def is_direct(self) -> bool:
        """Whether there is no better path to look for."""
        return self.link is not None and self.link.path == "direct"

    @property
    def trouble(self) -> str:
        """Why there is no link, or no better one, in words; empty when there is nothing to say."""
        errors = self.errors if self.link is None else self._of_better_paths(self.link)
        return "; ".join(f"{path}: {why}" for path, why in sorted(errors.items()))

    def _of_better_paths(self, link: Link) -> dict[str, str]:
        return {path: why for path, why in self.errors.items() if PREFERENCE[path] < PREFERENCE[link.path]}

    @property
    def news(self) -> trio.Event:
        """Set when a link comes or goes, or at `poke`; then there is another one."""
        return self._changed

    def poke(self) -> None:
        """There is news about how to reach this peer."""
        self._changed.set()
        self._changed = trio.Event()

    async def attend(self, link: Link) -> None:
        """Use a greeted link to its end, or close it if it is not needed.  Raises: Broken before it is in use."""
        old = self.link
        try:
            if not self.decides:
                await self._await_use(link)
                old, self.link = self.link, link
            else:
                async with self._deciding:  # both sides dial at the same moment: the second link waits for its turn
                    if wanted := self._wants(link):
                        await link.say(Use())
                        old, self.link = self.link, link
                if not wanted:
                    return await self._decline(link)
        except Broken:
            await link.close("no decision")
            raise
        return await self._use(old, link)

    async def _decline(self, link: Link) -> None:
        if self.link is not None:
            self.link.suspect()  # why did they dial?
        await link.close("already linked")

    def _wants(self, link: Link) -> bool:
        return self.link is None or PREFERENCE[link.path] < PREFERENCE[self.link.path]

    async def _await_use(self, link: Link) -> None:
        match await link.hear():
            case Use():
                return
            case Bye(why=why):
                raise Broken(self.peer, f"it said goodbye: {why[:200]}")
        raise Broken(self.peer, "it spoke before the decision")

    async def _use(self, old: Link | None, link: Link) -> None:
        """Run `link`, which has just become the one in use instead of `old`."""
        try:
            await self._take_over(old, link)
            self.errors = self._of_better_paths(link)
            self.poke()
            why = await link.run(self._outbox, self._receiver)
        finally:
            await trio.aclose_forcefully(link.frames.stream.transport)  # for the case that it never ran
            in_use = self.link is link
            if in_use:
                self._lose()
        if in_use:
            self.errors[link.path] = why
            await self._tell(LinkDown(self.peer, why))

    def _lose(self) -> None:
        self.link, self._up = None, False
        self._outbox.clear()
        self._outbox = Outbox()
        self.last_seen = trio.current_time()
        self.poke()

    async def _take_over(self, old: Link | None, link: Link) -> None:
        """Wait for the old link's last frames, and tell what happened."""
        if old is not None:
            old.move()
            with trio.move_on_after(MOVE_SECONDS):
                await old.finished.wait()
            if old.moved_in and old.moved_out:
                return await self._tell(PathChanged(self.peer, link.path))
            old.end("replaced by a new link")
            await old.finished.wait()
        if self._up:
            self._up = False
            self._outbox.clear()
            self._outbox = Outbox()
            await self._tell(LinkDown(self.peer, (old and old.why) or "replaced by a new link"))
        self._up = True
        await self._tell(LinkUp(self.peer, link.path))
        return None
