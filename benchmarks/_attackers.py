"""Who wants to spoil it for the others, in bench crowd: a process of its own until its stdin closes.

    _attackers.py URL KEY_HEX SEED        says "at work", and at the end what became of it as one line of JSON

From one address connections are opened as fast as the node takes them, and guests say what they can as fast as they
can; from a second one come guests of a mesh of their own that do not read while others flood them; from a third
connections that never say a word; from a fourth messages that are too long.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable

import trio
from trio_websocket import ConnectionClosed, HandshakeError

from benchmarks._guests import Guest, call_from, dial, people
from discod.errors import Broken
from discod.p2p.websocket import SignalingAt
from discod.wire.signaling import Beat, Denied, Present, Publish, Signal

FLOOD, SLOW, SILENT, LONG = "127.0.66.1", "127.0.66.2", "127.0.66.3", "127.0.66.4"
FLOODERS, SLEEPERS, SILENT_ONES, LONG_ONES = 24, 8, 48, 4
GONE = (Broken, OSError, trio.BrokenResourceError, trio.ClosedResourceError, ConnectionClosed, HandshakeError)
LONG_BYTES = 1 << 20
ALL_KINDS = ("flood_messages", "opened", "slow_messages", "half_open", "oversized")


class Attack:
    """All of it, and how often what happened."""

    def __init__(self, at: SignalingAt, seed: int) -> None:
        self.at, self.seed = at, seed
        self.counts: Counter[str] = Counter()

    async def again(self, one: Callable[[trio.Nursery], Awaitable[None]], kind: str) -> None:
        """Do it again and again, whatever the node thinks of it."""
        while True:
            async with trio.open_nursery() as nursery:
                try:
                    await one(nursery)
                except GONE as error:
                    self.counts[f"{kind}_ended"] += 1
                    if isinstance(error, Broken) and " " not in error.why:
                        self.counts[error.why] += 1
                nursery.cancel_scope.cancel()
            await trio.lowlevel.checkpoint()

    async def listen(self, guest: Guest) -> None:
        """Take what comes, and count refusals."""
        try:
            while True:
                if isinstance(message := await guest.hear(), Denied):
                    self.counts[message.code] += 1
        except GONE:
            return

    async def flood(self, nursery: trio.Nursery) -> None:
        """A guest that joins and floods."""
        number = self.counts["flood"]
        self.counts["flood"] += 1
        members, who = people(1, f"flood/{self.seed}/{number % FLOODERS}")
        guest = await call_from(self.at, FLOOD, nursery)
        await guest.join(who[0], members)
        nursery.start_soon(self.listen, guest)
        records = tuple(members.records()[:3]) * 20
        while True:
            await guest.say(Beat(1))
            await guest.say(Publish(records))
            await guest.socket.send(b"\xc1 junk")
            self.counts["flood_messages"] += 3

    async def open(self, nursery: trio.Nursery) -> None:
        """A connection that is closed at once."""
        self.counts["opened"] += 1
        stream = await dial(self.at, FLOOD)
        await trio.aclose_forcefully(stream)

    async def sleepers(self, nursery: trio.Nursery) -> None:
        """One that does not read, and one that gives it much to read."""
        number = self.counts["slow"]
        self.counts["slow"] += 1
        members, who = people(2, f"slow/{self.seed}/{number}")
        sleeper = await call_from(self.at, SLOW, nursery)
        await sleeper.join(who[0], members)
        loud = await call_from(self.at, SLOW, nursery)
        await loud.join(who[1], members)
        while True:
            await loud.say(Signal(who[0].peer_id, bytes(60_000)))
            self.counts["slow_messages"] += 1
            with trio.move_on_after(0.02):
                if not isinstance(message := await loud.hear(), Present):
                    raise Broken(None, message.code if isinstance(message, Denied) else "dropped")

    async def silence(self, nursery: trio.Nursery) -> None:
        """A connection without a word."""
        self.counts["half_open"] += 1
        async with await dial(self.at, SILENT) as stream:
            await stream.receive_some(1)

    async def too_long(self, nursery: trio.Nursery) -> None:
        """A message that is refused for its size."""
        self.counts["oversized"] += 1
        guest = await call_from(self.at, LONG, nursery)
        await guest.socket.send(bytes(LONG_BYTES))
        await guest.hear()


async def run(url: str, key: bytes, seed: int) -> None:
    attack = Attack(SignalingAt(url, key), seed)
    kinds = ((attack.flood, FLOODERS), (attack.open, 2), (attack.sleepers, SLEEPERS))
    kinds += ((attack.silence, SILENT_ONES), (attack.too_long, LONG_ONES))
    async with trio.open_nursery() as nursery:
        for one, count in kinds:
            for _ in range(count):
                nursery.start_soon(attack.again, one, one.__name__)
        while not all(attack.counts[kind] for kind in ALL_KINDS):  # noqa: ASYNC110 - counters tell nobody
            await trio.sleep(0.05)
        print("at work", flush=True)
        stdin = trio.lowlevel.FdStream(sys.stdin.fileno())
        while await stdin.receive_some():
            pass
        nursery.cancel_scope.cancel()
    print(json.dumps(attack.counts))


if __name__ == "__main__":
    trio.run(run, sys.argv[1], bytes.fromhex(sys.argv[2]), int(sys.argv[3]))
