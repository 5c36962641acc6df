"""A whole mesh of real round machines in one thread: virtual time, an in-memory network with faults, a checker.

Parameters are sets of training tokens instead of numbers: a peer's update is the set of tokens it has trained since its
base, a sum is their union. So a token that is counted twice, or a state that differs between peers, is seen at once.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from discod.errors import PeerError, Refused
from discod.masks import Masks
from discod.p2p import effects as fx
from discod.p2p.chain import Chain
from discod.p2p.round import Round
from discod.p2p.rules import Rules, Spent
from discod.wire.codec import digest
from discod.wire.rounds import Certificate, Head, Signed, head_hash
from tests.p2p.tokens import SCOPE, Disk, FakeKeyring, Tokens, genesis, parameters_hash, peer_id

__all__ = ["SCOPE", "FakeKeyring", "Host", "Tokens", "World", "genesis", "parameters_hash", "peer_id"]


class Host:
    """One peer: a machine, its shell's buffers, its trainer."""

    def __init__(self, world: World, peer: bytes) -> None:
        self.world, self.peer = world, peer
        self.disk = Disk(genesis())
        self.machine: Round | None = None
        self.slow = 1.0
        self.life = 0  # events of an earlier life are dropped

    @property
    def round(self) -> int:
        return self.disk.head.round

    def boot(self) -> None:
        world, disk = self.world, self.disk
        self.life += 1
        disk.seq += 1_000_000
        chain = Chain(disk.head, disk.headers.values(), disk.roster)
        spent = Spent(disk.spent.manifests)
        keyring = FakeKeyring(self.peer, frozenset(world.hosts))
        self.machine = Round(world.rules, keyring, chain, spent, world.random.randbytes, disk.seq)
        self.update: set[tuple[bytes, int]] = set()
        self.pieces: dict[tuple[bytes, bytes, int], Tokens] = {}  # (rid, peer, chunk)
        self.sums: dict[tuple[bytes, int], Tokens] = {}
        self.mine: dict[bytes, Tokens] = {}
        self.perform(self.machine.start(world.now))
        for other in world.hosts.values():
            if other is not self and other.machine is not None and world.connected(self.peer, other.peer):
                world.bring_up(self.peer, other.peer)
        self.begin_training()

    def crash(self) -> None:
        self.machine = None
        self.life += 1

    def begin_training(self) -> None:
        assert self.machine is not None
        self.perform(self.machine.training_began(self.world.now))
        self.world.after(self.world.random.uniform(0.2, 3.0) * self.slow, self._trained, self)

    def _trained(self) -> None:
        assert self.machine is not None
        self.disk.trained += 1
        self.update.add((self.peer, self.disk.trained))
        self.perform(self.machine.update_ready(self.world.now))

    def perform(self, effects: list[fx.Effect]) -> None:
        for effect in effects:
            self._perform(effect)
        self.world.schedule_tick(self)

    def _perform(self, effect: fx.Effect) -> None:
        world = self.world
        match effect:
            case fx.Send(to, signed, via):
                world.post(self.peer, via or to, to if via else b"", signed)
            case fx.SendPiece(to, rid, chunk):
                world.bulk(self.peer, to, rid, "piece", chunk, self.mine[rid])
            case fx.SendSum(to, rid, chunk):
                world.bulk(self.peer, to, rid, "sum", chunk, self.sums[rid, chunk])
            case fx.SendSnapshot(to, state):
                assert state == head_hash(self.disk.head)
                world.snapshot(self.peer, to, self.disk.head, self.disk.tokens)
            case fx.Contribute(rid, masks):
                world.mask(rid, self.peer, masks)
                self.disk.spent.manifests += 1
                self.mine[rid] = frozenset(self.update)
                hashes = tuple(self._hash("piece", rid, c, self.mine[rid]) for c in range(self._roster_size(rid)))
                self.later(lambda m: m.contributed(rid, hashes, world.now))
            case fx.Combine(rid, chunk, included, opening):
                world.check_opening(rid, included, opening)
                parts = [self.mine[rid] if p == self.peer else self.pieces[rid, p, chunk] for p in included]
                total = frozenset().union(*parts)
                assert len(total) == sum(map(len, parts))
                self.sums[rid, chunk] = total
                hash_ = self._hash("sum", rid, chunk, total)
                self.later(lambda m: m.combined(rid, chunk, hash_, world.now))
            case fx.Apply(rid):
                self._apply(rid)
            case fx.Fetch():
                pass
            case fx.Adopt(head, certificate, own_rid, keep):
                self._adopt(head, certificate, own_rid, keep)
            case fx.Close(rid, why, spent):
                world.closed[why] += 1
                if why != "certified" and why != "another base" and spent:
                    self.later(lambda _: self.begin_training())
            case fx.Retrain():
                self.update.clear()
                self.disk.spent.manifests = 0

    def later(self, call: Callable[[Round], list[fx.Effect] | None]) -> None:
        """The shell's own work takes a moment."""

        def run() -> None:
            assert self.machine is not None
            self.perform(call(self.machine) or [])

        self.world.after(self.world.random.uniform(0.0, 0.05), run, self)

    def _roster_size(self, rid: bytes) -> int:
        assert self.machine is not None
        return len(self.machine.ballots.get(rid).terms.roster)

    def _hash(self, kind: str, rid: bytes, chunk: int, tokens: Tokens) -> bytes:
        return digest(f"test/{kind}", rid, bytes([chunk]), parameters_hash(tokens))

    def _apply(self, rid: bytes) -> None:
        sums = {tokens for (r, _), tokens in self.sums.items() if r == rid}
        assert len(sums) == 1, "the chunks were summed over different sets"
        (total,) = sums
        assert not total & self.disk.tokens, "an update was counted twice"
        tokens = self.disk.tokens | total
        head = Head(SCOPE, self.disk.head.round + 1, head_hash(self.disk.head), 1.0, parameters_hash(tokens))
        self.disk.candidates[rid] = (head, tokens)
        self.later(lambda m: m.applied(rid, head, self.world.now))

    def _adopt(self, head: Head, certificate: Certificate, rid: bytes | None, keep: bool) -> None:
        world, disk = self.world, self.disk
        tokens = disk.candidates[rid][1] if rid is not None else world.snapshots[head_hash(head)]
        world.check_certificate(certificate)
        assert parameters_hash(tokens) == head.parameters
        if not keep:
            self.update.clear()
        assert not tokens & self.update, "an unspent update is in the sum already"
        disk.head, disk.tokens, disk.spent, disk.candidates = head, tokens, Spent(), {}
        assert self.machine is not None
        disk.headers, disk.roster = dict(self.machine.chain.headers), self.machine.chain.last_roster
        world.snapshots[head_hash(head)] = tokens
        world.adopted += 1
        if not keep:
            self.later(lambda _: self.begin_training())


class World:
    """The hosts, the network between them, and the clock."""

    def __init__(
        self,
        peers: int,
        seed: int,
        min_peers: int = 2,
        words: int = 100,
        majority: bool = False,
        *,
        secure: bool = False,
        witness: bool = False,
    ) -> None:
        self.random = random.Random(seed)
        self.rules = Rules(SCOPE, words, min_peers, majority, secure=secure, witness=witness)
        self.masked: dict[tuple[bytes, bytes], Masks] = {}  # (rid, peer) -> what hides its words
        self.now = 0.0
        self.hosts: dict[bytes, Host] = {}
        self.cut: set[frozenset[bytes]] = set()
        self.up: set[frozenset[bytes]] = set()
        self.epoch: Counter[frozenset[bytes]] = Counter()  # a link that was cut is another link
        self.snapshots: dict[bytes, Tokens] = {}
        self.certified: dict[tuple[bytes, int, bytes], bytes] = {}
        self.adopted = 0
        self.closed: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.delay: Callable[[], float] = lambda: self.random.uniform(0.001, 0.05)
        self._queue: list[tuple[float, int, Callable[[], None], Host | None, int]] = []
        self._count = 0
        self._fifo: dict[tuple[bytes, bytes], float] = {}
        self._ticks: dict[bytes, float] = {}
        for number in range(peers):
            self.hosts[peer_id(number)] = Host(self, peer_id(number))

    def boot(self) -> None:
        for host in self.hosts.values():
            host.boot()

    # -- time -----------------------------------------------------------------------------------------------------

    def after(self, seconds: float, call: Callable[[], None], host: Host | None = None) -> None:
        self._count += 1
        life = host.life if host is not None else 0
        heapq.heappush(self._queue, (self.now + seconds, self._count, call, host, life))

    def schedule_tick(self, host: Host) -> None:
        if host.machine is None or (due := host.machine.deadline) == math.inf:
            return
        if self._ticks.get(host.peer, math.inf) <= due and self._ticks[host.peer] > self.now:
            return
        self._ticks[host.peer] = due

        def tick() -> None:
            assert host.machine is not None
            if self._ticks.get(host.peer) == due:
                del self._ticks[host.peer]
            host.perform(host.machine.tick(self.now))
            assert host.machine.deadline > self.now, "a deadline that has passed and stays"

        self.after(max(0.0, due - self.now) + 1e-6, tick, host)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Run for so long, or until a condition holds; whether it does."""
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            self.now, _, call, host, life = heapq.heappop(self._queue)
            if host is None or host.life == life:
                call()
                if until():
                    return True
        self.now = end
        return until()

    # -- network --------------------------------------------------------------------------------------------------

    def connected(self, a: bytes, b: bytes) -> bool:
        return frozenset((a, b)) not in self.cut

    def bring_up(self, a: bytes, b: bytes) -> None:
        pair = frozenset((a, b))
        if pair in self.up or pair in self.cut or any(self.hosts[p].machine is None for p in (a, b)):
            return
        self.up.add(pair)
        for one, other in ((a, b), (b, a)):
            host = self.hosts[one]
            assert host.machine is not None
            host.perform(host.machine.link(other, self.now))

    def take_down(self, a: bytes, b: bytes) -> None:
        pair = frozenset((a, b))
        if pair not in self.up:
            return
        self.up.discard(pair)
        self.epoch[pair] += 1
        for one, other in ((a, b), (b, a)):
            host = self.hosts[one]
            if host.machine is not None:
                host.perform(host.machine.lost(other, self.now))

    def cut_link(self, a: bytes, b: bytes) -> None:
        self.cut.add(frozenset((a, b)))
        self.take_down(a, b)

    def heal(self) -> None:
        pairs, self.cut = self.cut, set()
        for pair in sorted(pairs, key=sorted):
            self.after(self.random.uniform(0, 1), partial(self.bring_up, *sorted(pair)))

    def crash(self, peer: bytes) -> None:
        self.hosts[peer].crash()
        for pair in sorted(sorted(p) for p in self.up if peer in p):
            self.take_down(*pair)

    def _deliver(self, a: bytes, b: bytes, delay: float, ordered: bool, call: Callable[[Host], None]) -> None:
        pair = frozenset((a, b))
        if pair not in self.up:
            return
        epoch, at = self.epoch[pair], self.now + delay
        if ordered:
            at = self._fifo[a, b] = max(at, self._fifo.get((a, b), 0.0) + 1e-9)

        def arrive() -> None:
            host = self.hosts[b]
            if pair in self.up and self.epoch[pair] == epoch and host.machine is not None:
                try:
                    call(host)
                except Refused as error:
                    self.refused[error.why] += 1
                except PeerError as error:
                    raise AssertionError(f"an honest peer was called broken: {error.why}") from error

        self.after(at - self.now, arrive)

    def post(self, a: bytes, b: bytes, onward: bytes, signed: Signed) -> None:
        ordered = self.random.random() < 0.9  # messages that pass through a third peer overtake each other

        def call(host: Host) -> None:
            assert host.machine is not None
            if onward and onward != b:
                return self.post(b, onward, b"", signed)
            return host.perform(host.machine.receive(signed, self.now))

        self._deliver(a, b, self.delay(), ordered, call)

    def bulk(self, a: bytes, b: bytes, rid: bytes, kind: str, chunk: int, tokens: Tokens) -> None:
        sender = self.hosts[a]
        size = 4 * sender.machine.ballots.get(rid).terms.sizes[chunk] if sender.machine else 0
        hash_ = sender._hash(kind, rid, chunk, tokens)

        def call(host: Host) -> None:
            assert host.machine is not None
            if not host.machine.expects(a, rid, kind, chunk, size):
                return self._deliver(b, a, self.delay(), True, refuse)
            if kind == "piece":
                host.pieces[rid, a, chunk] = tokens
            else:
                host.sums[rid, chunk] = tokens
            return host.perform(host.machine.bulk_arrived(a, rid, kind, chunk, hash_, self.now))

        def refuse(host: Host) -> None:
            assert host.machine is not None
            host.perform(host.machine.bulk_refused(b, rid, kind, chunk, self.now))

        self._deliver(a, b, self.delay() * 2, True, call)

    def snapshot(self, a: bytes, b: bytes, head: Head, tokens: Tokens) -> None:
        def call(host: Host) -> None:
            assert host.machine is not None
            host.perform(host.machine.fetched(head, self.now))

        self._deliver(a, b, self.delay() * 3, True, call)

    # -- laws -----------------------------------------------------------------------------------------------------

    def mask(self, rid: bytes, peer: bytes, masks: Masks | None) -> None:
        """Under one rid a peer masks once."""
        assert (masks is not None) == self.rules.secure
        if masks is not None:
            assert self.masked.setdefault((rid, peer), masks) == masks

    def check_opening(self, rid: bytes, included: Iterable[bytes], opening: Masks | None) -> None:
        """What hides the words of exactly these peers, and what is taken off their sum, is nothing in all."""
        if opening is None:
            assert not self.rules.secure
            return
        plus, minus = Counter(opening.plus), Counter(opening.minus)
        for peer in included:
            plus.update(self.masked[rid, peer].plus)
            minus.update(self.masked[rid, peer].minus)
        assert plus == minus, "a sum that stays hidden"

    def check_certificate(self, certificate: Certificate) -> None:
        """One rid, one state."""
        key = (certificate.parent, certificate.round, digest("test/roster", *(s.envelope for s in certificate.adverts)))
        assert self.certified.setdefault(key, certificate.state) == certificate.state

    def alive(self) -> Iterator[Host]:
        return (host for host in self.hosts.values() if host.machine is not None)

    def one_base(self) -> bool:
        return len({head_hash(host.disk.head) for host in self.alive()}) == 1
