"""What the relay carries: bytes through a node's splice, beside the same TLS straight over loopback.

    python3 run.py bench relay [--mb 200 --rounds 5] [--plain] [--seed 0]

Two ends in this process, which speak the daemons' TLS to each other (discod/p2p/transport.py): over a TCP connection,
and over two WebSockets that a real node joins. A round sends --mb by each; they take turns, so that a busy machine
slows both. The node runs on a core of its own if there is one, with its limits of relayed bytes out of the way.

    direct_mb_s, relay_mb_s   median over the rounds
    ratio                     median of relay to direct, round by round; the target is at least 0.3
    node_cpu                  of the relayed seconds, how many the node computed

Exit 1 when what arrives is not what was sent.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from statistics import median
from typing import Any

import trio

from benchmarks import _arguments as arguments
from benchmarks._daemons import say
from benchmarks._guests import Node, call_from, open_node, people
from discod.errors import Broken, UserError, first_error
from discod.identity import Identity
from discod.p2p.transport import READ_BYTES, TlsStream
from discod.p2p.trust import Trust
from discod.p2p.websocket import redeem
from discod.wire.signaling import Present, Relay, Ticket

FREE = 10**12  # bytes; no limit that could be met
FREE_FLAGS = [
    flag
    for name in ("relay-bytes-per-minute", "relay-bytes-per-second", "relay-total-bytes-per-second")
    for flag in ("--limit", f"{name}={FREE}")
]


def trusting(me: Identity, other: Identity) -> Trust:
    trust = Trust(me)
    trust.set_keys([other.public])
    return trust


async def shake(near: trio.abc.Stream, far: trio.abc.Stream, who: list[Identity]) -> tuple[TlsStream, TlsStream]:
    """TLS as on a link: `near` dials."""
    one = TlsStream(near, trusting(who[0], who[1]).client, server_side=False)
    two = TlsStream(far, trusting(who[1], who[0]).server, server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.do_handshake)
        nursery.start_soon(two.do_handshake)
    return one, two


@asynccontextmanager
async def direct(who: list[Identity]) -> AsyncIterator[tuple[TlsStream, TlsStream]]:
    """Both ends of a TCP connection."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    near = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
    far = await listener.accept()
    async with listener, near, far:
        yield await shake(near, far, who)


@asynccontextmanager
async def relayed(node: Node, seed: int) -> AsyncIterator[tuple[TlsStream, TlsStream]]:
    """Both ends of a relay."""
    members, who = people(2, f"relay/{seed}")
    async with trio.open_nursery() as nursery:
        guests = [await call_from(node.at, "127.0.0.1", nursery) for _ in who]
        for guest, identity in zip(guests, who, strict=True):
            await guest.join(identity, members)
        await guests[0].say(Relay(who[1].peer_id))
        ends = dict[bool, Any]()

        async def sit(token: bytes, dialling: bool) -> None:
            end = await call_from(node.at, "127.0.0.1", nursery)
            ends[dialling] = await redeem(end.socket, token)

        async with trio.open_nursery() as sitting:
            for guest in guests:
                while isinstance(message := await guest.hear(), Present):
                    pass
                if not isinstance(message, Ticket):
                    raise Broken(None, f"no relay: {message}")
                sitting.start_soon(sit, message.token, message.dial)
        yield await shake(ends[True], ends[False], who)
        nursery.cancel_scope.cancel()


async def carry(near: TlsStream, far: TlsStream, data: bytes) -> float:
    """Seconds until all has arrived.  Raises: UserError when it is not what was sent."""
    arrived = bytearray(len(data))
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.send_all, data)
        view = memoryview(arrived)
        for start in range(0, len(data), READ_BYTES):
            await far.receive_into(view[start : start + READ_BYTES])
    seconds = trio.current_time() - started
    if arrived != data:
        raise UserError("what arrived is not what was sent")
    return seconds


async def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    data = sha256(str(chosen.seed).encode()).digest() * (round(chosen.mb * arguments.MB) // 32)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, set(cores[1:]))
    _, who = people(2, f"direct/{chosen.seed}")
    straight, through, cpu = [], [], 0.0
    flags = [*FREE_FLAGS, *(["--plain"] if chosen.plain else [])]
    async with open_node(flags, cores[0]) as node, direct(who) as ends, relayed(node, chosen.seed) as splice:
        for ways in (ends, splice):
            await carry(*ways, data[: len(data) // 10])
        for number in range(chosen.rounds):
            straight.append(await carry(*ends, data))
            before = node.cpu_seconds()
            through.append(await carry(*splice, data))
            cpu += node.cpu_seconds() - before
            say(f"  round {number + 1}: {straight[-1] * 1e3:.0f} ms directly, {through[-1] * 1e3:.0f} ms by relay")
    size = len(data) / arguments.MB
    return {
        "mode": "plain" if chosen.plain else "tls",
        "mb": chosen.mb,
        "rounds": chosen.rounds,
        "direct_mb_s": round(size / median(straight), 1),
        "relay_mb_s": round(size / median(through), 1),
        "ratio": round(median(one / other for one, other in zip(straight, through, strict=True)), 3),
        "node_cpu": round(cpu / sum(through), 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="run.py bench relay"
    )
    mb = arguments.number(0.1, arguments.MOST_MB, float, "what a round sends, in MB (10^6 bytes),")
    parser.add_argument("--mb", type=mb, default=200.0, help="MB of 10^6 bytes that a round sends (default: 200)")
    parser.add_argument("--rounds", type=arguments.number(1, 1000, int, "the number of rounds"), default=5)
    parser.add_argument("--plain", action="store_true", help="a node without TLS of its own")
    parser.add_argument("--seed", type=arguments.number(0, 1 << 62, int, "the seed"), default=0)
    chosen, load = parser.parse_args(), os.getloadavg()[0]
    try:
        row = trio.run(measure, chosen)
    except UserError as error:
        say(error.message)
        return 1
    except BaseExceptionGroup as group:
        error = first_error(group)
        say(str(error))
        return 1
    print(json.dumps({"tool": "discod", "bench": "relay", "seed": chosen.seed, "load1": round(load, 2)} | row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
