"""The floor under a round: the same bytes over bare blocking TLS sockets, without any of what makes a round safe.

    python3 run.py bench floor [--peers 4 --mb 10 --rounds 7 --seed 0]

    peer -> every other   its piece of the chunk that the other owns     reduce-scatter: n - 1 pieces of 1/n vector
    owner                 adds them up
    owner -> every other  the sum of its chunk                           all-gather: n - 1 sums of 1/n vector

Every peer is a process of its own, as daemons are, with one connection and one thread for each direction to each other
peer; the processes end when this one does, however it ends. Links are as the daemon's: loopback, TLS 1.3, Ed25519
certificates on both sides, no tickets. Nothing is encoded, hashed, signed or written to disk, nobody may be missing,
and there is no safety copy. A round lasts from the last peer's start to the last peer's end; the first one, in which
memory is touched for the first time, does not count. Exit 1 when a sum is wrong.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import secrets
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import numpy as np

from benchmarks import _arguments as arguments
from discod.errors import UserError
from discod.identity import Identity
from discod.p2p.transport import client_context, server_context
from discod.p2p.trust import load_pair
from discod.ring import Words, chunk_bounds

SILENCE_SECONDS = 120.0  # of a socket or of another peer of the floor: something is broken
INDEX_BYTES = 2  # what a dialling peer says first: who it is

Span = tuple[float, float]  # start and end of a round, on the clock that all processes share


@dataclass(frozen=True)
class Plan:
    """What all peers of a floor know. `key` makes the one certificate that they all present and trust."""

    peers: int
    words: int
    seed: int
    key: bytes

    @property
    def chunks(self) -> tuple[tuple[int, int], ...]:
        return chunk_bounds(self.words, self.peers)


def update_of(plan: Plan, peer: int) -> Words:
    """(words,) what this peer puts into the sum."""
    return np.random.default_rng([plan.seed, peer]).integers(0, 1 << 32, plan.words, np.uint32)


def right_sum(plan: Plan) -> str:
    """SHA-256 of the sum that every peer must hold."""
    total = np.zeros(plan.words, np.uint32)
    for peer in range(plan.peers):
        total += update_of(plan, peer)
    return sha256(total.data).hexdigest()


class Peer:
    """One peer of the floor: its update, the sum of the last round, and two one-way links to each other peer."""

    def __init__(self, plan: Plan, me: int, links: Links) -> None:
        self._chunks = plan.chunks
        self._me, self._links, self._others = me, links, [peer for peer in range(plan.peers) if peer != me]
        self._update = update_of(plan, me)
        self.total = np.empty(plan.words, np.uint32)
        start, stop = self._chunks[me]
        self._pieces = {peer: np.empty(stop - start, np.uint32) for peer in self._others}
        self._pool = ThreadPoolExecutor(2 * len(self._others))
        self._adding = threading.Lock()

    def round(self) -> Span:
        """Exchange once; `total` is the sum afterwards."""
        began = time.monotonic()
        own = self._chunk(self.total, self._me)
        own[:] = self._chunk(self._update, self._me)
        self._missing, self._summed = len(self._others), threading.Event()
        work = [self._pool.submit(self._send, peer, own) for peer in self._others]
        work += [self._pool.submit(self._receive, peer, own) for peer in self._others]
        for done in work:
            done.result()
        return began, time.monotonic()

    def close(self) -> None:
        self._pool.shutdown()

    def _chunk(self, words: Words, owner: int) -> Words:
        start, stop = self._chunks[owner]
        return words[start:stop]

    def _send(self, peer: int, own: Words) -> None:
        link = self._links.to[peer]
        link.sendall(octets(self._chunk(self._update, peer)))
        if not self._summed.wait(SILENCE_SECONDS):
            raise TimeoutError("not all pieces came")
        link.sendall(octets(own))

    def _receive(self, peer: int, own: Words) -> None:
        link, piece = self._links.of[peer], self._pieces[peer]
        fill(link, octets(piece))
        with self._adding:
            own += piece
            self._missing -= 1
            if not self._missing:
                self._summed.set()
        fill(link, octets(self._chunk(self.total, peer)))


def octets(words: Words) -> memoryview:
    """The bytes of words, not copied."""
    return words.view(np.uint8).data


def fill(link: ssl.SSLSocket, view: memoryview) -> None:
    """Receive exactly `view`."""
    while len(view):
        count = link.recv_into(view)
        if not count:
            raise ConnectionError("the other peer is gone")
        view = view[count:]


class Links:
    """One-way connections of one peer: `to` others it dialled, `of` others that dialled it."""

    def __init__(self, stack: ExitStack, plan: Plan, me: int) -> None:
        identity = Identity.from_seed(plan.key)
        self._stack, self._me, self._others = stack, me, plan.peers - 1
        self._client, self._server = client_context(), server_context()
        for context in (self._client, self._server):
            load_pair(context, identity.key_pem + identity.certificate_pem)
            context.load_verify_locations(cadata=identity.certificate_der)
        self._listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=plan.peers))
        self._listener.settimeout(SILENCE_SECONDS)
        self.to: dict[int, ssl.SSLSocket] = {}
        self.of: dict[int, ssl.SSLSocket] = {}

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def connect(self, ports: list[int]) -> None:
        """Dial all others while they dial us."""
        with ThreadPoolExecutor(1) as pool:
            accepted = pool.submit(self._accept)
            for peer, port in enumerate(ports):
                if peer != self._me:
                    self.to[peer] = self._dial(port)
            accepted.result()

    def _dial(self, port: int) -> ssl.SSLSocket:
        link = self._ready(self._client, socket.create_connection(("127.0.0.1", port), SILENCE_SECONDS))
        link.sendall(self._me.to_bytes(INDEX_BYTES, "big"))
        return link

    def _accept(self) -> None:
        for _ in range(self._others):
            link = self._ready(self._server, self._listener.accept()[0])
            index = bytearray(INDEX_BYTES)
            fill(link, memoryview(index))
            self.of[int.from_bytes(index, "big")] = link

    def _ready(self, context: ssl.SSLContext, plain: socket.socket) -> ssl.SSLSocket:
        plain.settimeout(SILENCE_SECONDS)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._stack.enter_context(context.wrap_socket(plain, server_side=context is self._server))


def serve(end: Connection, plan: Plan, me: int) -> None:
    """A process of the floor: <- ports, -> when linked, then a round for every True, at the end the sum's SHA-256."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    with ExitStack() as stack:
        links = Links(stack, plan, me)
        end.send(links.port)
        links.connect(end.recv())
        peer = Peer(plan, me, links)
        stack.callback(peer.close)
        end.send(None)
        try:
            while end.recv():
                end.send(peer.round())
            end.send(sha256(peer.total.data).hexdigest())
        except (EOFError, BrokenPipeError):  # whoever measures is gone
            return


@contextmanager
def open_floor(plan: Plan) -> Iterator[list[Connection]]:
    """The processes of a floor, linked; all have ended when the block has."""
    spawn = multiprocessing.get_context("spawn")  # threads and trio may be about: no fork
    ends: list[Connection] = []
    processes = []
    try:
        for me in range(plan.peers):
            here, there = spawn.Pipe()
            process = spawn.Process(target=serve, args=(there, plan, me), daemon=True)
            processes.append(process)
            ends.append(here)
            process.start()
            there.close()
        ports = _hear(ends)
        _tell(ends, ports)
        _hear(ends)
        yield ends
    finally:
        for end in ends:
            end.close()
        for process in filter(lambda one: one.pid is not None, processes):
            process.kill()
            process.join()


def _hear(ends: list[Connection]) -> list[Any]:
    """One message from each.  Raises: UserError when a process has ended or says nothing."""
    said = []
    for end in ends:
        try:
            if not end.poll(SILENCE_SECONDS):
                raise UserError(f"the floor stands still: a process said nothing for {SILENCE_SECONDS:.0f} s")
            said.append(end.recv())
        except (EOFError, ConnectionError):
            raise UserError("a process of the floor ended too early", "its own words are above") from None
    return said


def _tell(ends: list[Connection], message: object) -> None:
    for end in ends:
        end.send(message)


class WrongSum(UserError):
    """A peer of the floor holds another sum than numpy."""

    code = "wrong-sum"


def measure(peers: int, floats: int, rounds: int, seed: int) -> list[float]:
    """Seconds of each of `rounds` rounds with a vector of `floats` float32 and its weight word.

    Raises: WrongSum; UserError when a process of the floor ended early.
    """
    plan = Plan(peers, floats + 1, seed, secrets.token_bytes(32))
    with open_floor(plan) as ends:
        seconds = [_round(ends) for _ in range(1 + rounds)][1:]
        _tell(ends, False)
        sums = set(_hear(ends))
    if sums != {right_sum(plan)}:
        raise WrongSum("the floor's sums are wrong")
    return seconds


def _round(ends: list[Connection]) -> float:
    _tell(ends, True)
    spans: list[Span] = _hear(ends)
    return max(end for _, end in spans) - max(start for start, _ in spans)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="run.py bench floor"
    )
    arguments.add_to(parser)
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, arguments.terminated)
    load = os.getloadavg()[0]
    try:
        seconds = measure(chosen.peers, arguments.floats_of(chosen.mb), chosen.rounds, chosen.seed)
    except UserError as error:
        print(f"{error.message}\n{error.hint}".strip(), file=sys.stderr)
        return int(error.exit)
    except KeyboardInterrupt:
        return 130
    row = {
        "tool": "discod",
        "bench": "floor",
        "seed": chosen.seed,
        "load1": round(load, 2),
        "mb": chosen.mb,
        "clients": chosen.peers,
        "rounds": chosen.rounds,
        "round_s": [round(one, 6) for one in seconds],
        "median_round_s": round(median(seconds), 6),
    }
    print(json.dumps(row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
