"""The decentralized exchange: what a round machine asks for, done with links, threads and the store.

    trainer       round_begin, round_end    ->  Round  ->  effects, performed in order
    links         deliver, expect           ->
    threads       encode, sum, apply, save  ->           (their results are inputs again)

    Contribute    encode the update, its spent record to disk     -> contributed   (only now a Manifest leaves)
    Combine       sum the pieces of a chunk                       -> combined
    Apply         base + mean, to disk                            -> applied       (only now a Done leaves)
    Adopt         certificate and base to disk in one transaction; what follows waits until that is done

Vectors are float32 (d,), words uint32 (d + 1,). Base vectors are never written to: they may be on their way to a peer.
Everything but the threads runs in the trio thread of `run`.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio

from discod.daemon.charging import Charging
from discod.daemon.exchanging import FINISHED, QUIET_ENDINGS, ExchangeStatus
from discod.daemon.fetching import Fetching
from discod.daemon.kept import Shelf, chain_of
from discod.daemon.keyring import MeshKeyring
from discod.daemon.room import Room
from discod.daemon.routing import RunEvent
from discod.daemon.sending import Sending
from discod.daemon.turn import Turn, told
from discod.daemon.workshop import Candidate, Reached, Workshop, reach_nothing
from discod.errors import Broken, PeerError, UserError
from discod.identity import Identity, Members
from discod.masks import Masks
from discod.p2p import effects as fx
from discod.p2p.mesh import BulkArrived, LinkDown, LinkUp, Mesh, Received
from discod.p2p.round import Round
from discod.p2p.rules import Rules, Spent
from discod.store import Store
from discod.train.rounds import JointState, Measured
from discod.train.task import TaskSpec
from discod.train.vector import Vector
from discod.wire.codec import encode as encode_message
from discod.wire.links import BulkHeader, BulkKind, Post, Refusal
from discod.wire.rounds import Certificate, Head, head_hash

SLOW_LINK = 4e6  # bytes a second that a peer's line is expected to move at least: deadlines allow for it
SEQ_BITS = 24  # sequence numbers of one start of the daemon


class DecentralizedExchange:
    """A RunExchange (exchanging.py) that holds rounds with the peers of a mesh."""

    def __init__(
        self,
        *,
        task: TaskSpec,
        scope: bytes,
        members: Members,
        mesh: Mesh,
        identity: Identity,
        store: Store,
        initial_parameters: Vector,
        min_peers: int,
        notify: Callable[[str, dict[str, Any]], None],
        charging: Charging | None = None,
        reached: Reached = reach_nothing,
    ) -> None:
        self._task, self._members, self._mesh, self._notify = task, members, mesh, notify
        shelf = Shelf(store, task, scope, charging)
        kept = shelf.load(initial_parameters)
        self._shop = shop = Workshop(task, scope, shelf, kept, reached, notify)
        self.batches = 0
        self.measured: Measured | None = None
        self._origin = shop.base  # what the update under way is measured from
        self._dropped = False  # what is being trained was spent under an older base
        rule, bulk, secure = task.round, 4 * shop.words / SLOW_LINK, task.aggregator == "secure"
        majority, witness = rule.quorum == "majority", task.aggregation.audit == "witness"
        rules = Rules(scope, shop.words, min_peers, majority, rule.straggle_seconds, bulk, witness, secure)
        chain = chain_of(kept, task, members.mesh_id)
        # Higher than in any start before, whatever the clock says or whichever backup was restored.
        seq = store.next_number(f"seq {scope.hex()}", int(time.time())) << SEQ_BITS
        keyring, spent = MeshKeyring(identity, members), Spent(kept.manifests)
        self._machine = Round(rules, keyring, chain, spent, secrets.token_bytes, seq)
        self._fetching, self._sending = Fetching(len(shop.base)), Sending(mesh, scope, shop.says)
        self._turn = Turn()
        self._linked: set[bytes] = set()
        self._lost, self._last_loss = 0, ""
        self._effects: deque[fx.Effect] = deque()
        self._held = True  # effects wait: before `run`, and while a base is being committed
        self._nursery: trio.Nursery | None = None
        self._changed = trio.Event()

    # -- what the daemon asks

    @property
    def parameters(self) -> Vector:
        """(d,) of the base; not to be written to."""
        return self._shop.base

    @property
    def round(self) -> int:
        """Of the base."""
        return self._shop.head.round

    @property
    def base(self) -> bytes:
        """The (32,) hash of the base."""
        return self._shop.state

    @property
    def certificate(self) -> bytes:
        """The encoded certificate of the base; empty before the first."""
        certificate = self._machine.chain.headers.get(self.base)
        return encode_message(certificate) if certificate is not None else b""

    def set_out(self) -> Vector:
        """(d,) the base that training goes on from: an update is what was learned since."""
        self._origin = self._shop.base
        return self._shop.base

    def status(self) -> ExchangeStatus:
        """Where it stands."""
        machine, attempt = self._machine, self._machine.attempt
        phase = "waiting" if machine.calling.mine.ready else "idle"
        if machine.standing.fetching is not None:
            phase = "fetching"
        if attempt is not None:
            phase = attempt.phase.value
        roster = attempt.terms.roster if attempt is not None else machine.chain.last_roster
        ready = frozenset(machine.calling.valid(trio.current_time()))
        return ExchangeStatus(phase, ready | frozenset(roster if attempt else ()), roster, self._lost, self._last_loss)

    def round_of(self, peer: bytes) -> int | None:
        """The round of the state that a peer said it stands on; None when it is not linked."""
        links = self._machine.calling.election.links.get(peer)
        return links.round if links is not None else None

    def _start_of(self, peer: bytes) -> int | None:
        """Which start of a peer's run was heard last."""
        links = self._machine.calling.election.links.get(peer)
        return links.seq >> SEQ_BITS if links is not None else None

    def retire(self, why: str = FINISHED) -> None:
        """This peer trains no more; it goes on serving its certified state."""
        self._perform(self._machine.retired(why, trio.current_time()))

    def members_changed(self) -> None:
        """The member set of its mesh is another."""
        trainers = self._members.trainers()
        self._perform(self._machine.members_changed(trio.current_time()))
        for peer in sorted(self._mesh.linked_peers() & trainers - self._linked):
            self._link(peer)
        for peer in sorted(self._linked - trainers):
            self._unlink(peer)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive the rounds until cancelled; then say that this peer trains no more."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._perform(self._machine.start(trio.current_time()))
                self._resume()
                nursery.start_soon(self._keep_time)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery, self._held = None, True
            for effect in self._machine.retired("it is stopping", trio.current_time()):
                if isinstance(effect, fx.Send):
                    self._sending.message(effect)

    async def _keep_time(self) -> None:
        while True:
            with trio.move_on_at(self._machine.deadline):
                await self._changed.wait()
            if trio.current_time() >= self._machine.deadline:
                self._perform(self._machine.tick(trio.current_time()))

    # -- training

    async def round_begin(self) -> JointState | None:
        """A peer adverts when local training starts; returns a newer base to start it from, if there is one."""
        await trio.lowlevel.checkpoint()
        self._perform(self._machine.training_began(trio.current_time()))
        return None if self._origin is self._shop.base else self._joint()

    async def round_end(self, local: Vector, weight: int) -> JointState | None:
        """Offer the update to rounds until one is certified, or is lost with the update spent (None: train on)."""
        await trio.lowlevel.checkpoint()
        if self._dropped or self.round >= self._task.rounds:  # the last one may have been certified meanwhile
            return self._joint()
        self._turn.offer(local, weight)
        self._notify("round.shared", {"round": self.round + 1})
        try:
            self._perform(self._machine.update_ready(trio.current_time()))
            return await self._turn.answer()
        finally:
            self._turn.end()
            await self._shop.unread()

    def _joint(self) -> JointState:
        shop, self._dropped = self._shop, False
        self._origin = shop.base
        return JointState(shop.head.round, shop.base, shop.contributors, shop.joint)

    # -- what links deliver

    def deliver(self, event: RunEvent) -> None:
        """Take a link event, a message or a transfer. Raises: Refused, Broken."""
        match event:
            case LinkUp(peer):
                self._link(peer)
            case LinkDown(peer):
                self._unlink(peer)
            case Received(peer, Post(_, signed)):
                start = self._start_of(peer)
                try:
                    effects = self._machine.receive(signed, trio.current_time())
                except PeerError:
                    self._perform(self._machine.tick(trio.current_time()))  # it may have proven something
                    raise
                self._perform(effects)
                if peer in self._linked and self._start_of(peer) != start:  # its run is younger than the link
                    self._perform(self._machine.link(peer, trio.current_time()))
            case Received(peer, Refusal(rid, kind, _, chunk)):
                self._perform(self._machine.bulk_refused(peer, rid, kind, chunk, trio.current_time()))
            case BulkArrived(peer, BulkHeader(kind="snapshot", rid=state), digest):
                self._snapshot_came(peer, state, digest)
            case BulkArrived(peer, header, digest):
                self._bulk_came(peer, header, digest)

    def expect(self, peer: bytes, header: BulkHeader) -> memoryview | None:
        """Where a transfer that the machine, or a fetch, waits for goes."""
        if header.kind == "snapshot":
            return self._fetching.place(peer, header)
        if not self._machine.expects(peer, header.rid, header.kind, header.chunk, header.size):
            return None
        room = self._room(header.rid)
        place = room.place_for_piece if header.kind == "piece" else room.place_for_sum
        return place(peer, header.chunk).data.cast("B")

    def _link(self, peer: bytes) -> None:
        if peer not in self._linked and peer in self._members.trainers():
            self._linked.add(peer)
            self._perform(self._machine.link(peer, trio.current_time()))

    def _unlink(self, peer: bytes) -> None:
        if peer in self._linked:
            self._linked.discard(peer)
            self._perform(self._machine.lost(peer, trio.current_time()))

    def _bulk_came(self, peer: bytes, header: BulkHeader, digest: bytes) -> None:
        room, rid, chunk = self._shop.room(header.rid), header.rid, header.chunk
        if room is None:
            return
        effects = self._machine.bulk_arrived(peer, rid, header.kind, chunk, digest, trio.current_time())
        if header.kind == "sum":
            room.sum_came(peer, chunk, digest)
        self._perform(effects)

    def _snapshot_came(self, peer: bytes, state: bytes, digest: bytes) -> None:
        try:
            found = self._fetching.came(peer, state, digest)
        except Broken:
            self._perform(self._machine.not_fetched(trio.current_time()))
            raise
        if found is not None:
            self._start(self._keep_snapshot, *found)

    # -- what the machine asks

    def _perform(self, effects: Sequence[fx.Effect]) -> None:
        self._effects.extend(effects)
        while self._effects and not self._held:
            self._do(self._effects.popleft())
        self._changed.set()
        self._changed = trio.Event()

    def _resume(self) -> None:
        self._held = False
        self._perform(())

    def _do(self, effect: fx.Effect) -> None:
        match effect:
            case fx.Send():
                self._sending.message(effect)
            case fx.SendPiece(to, rid, chunk):
                self._send_words(to, "piece", rid, chunk)
            case fx.SendSum(to, rid, chunk):
                self._send_words(to, "sum", rid, chunk)
            case fx.SendSnapshot(to, state):
                if state == self.base:
                    self._sending.bulk(to, "snapshot", state, 0, self._shop.base)
            case fx.Open(rid):
                self._shop.reached("open", self._shop.next_round)
                self._notify("round.opened", {"round": self._shop.next_round})
                self._room(rid)
            case fx.Contribute(rid, masks):
                self._start(self._contribute, rid, masks)
            case fx.Combine(rid, chunk, included, opening):
                self._start(self._combine, rid, chunk, included, opening)
            case fx.Apply(rid, sums, included):
                self._start(self._apply, rid, sums, included)
            case fx.Fetch(peer, head):
                self._fetching.want(peer, head)
            case fx.Adopt():
                self._held = True
                chain = self._machine.chain
                self._start(self._adopt, effect, tuple(chain.headers.values()), chain.last_roster)
            case fx.Close(rid, why, spent):
                self._close(rid, why, spent)
            case fx.Retrain(pause):
                self._notify("round.retrain", {"round": self.round + 1, "seconds": pause})
                self._dropped = True
                self._turn.settle(self._joint())
            case fx.Note(event, peer, text):
                about = {"peer": self._members.name(peer)} if peer else {"round": self._shop.next_round}
                self._notify(event, about | {"why": text})

    def _start(self, work: Callable[..., Awaitable[None]], *args: Any) -> None:
        assert self._nursery is not None, "effects are held before run"
        self._nursery.start_soon(work, *args)

    def _send_words(self, to: bytes, kind: BulkKind, rid: bytes, chunk: int) -> None:
        """Whoever is linked and cannot be sent to now is sent to again a little later."""
        if (room := self._shop.room(rid)) is None:
            return
        words = room.piece(chunk) if kind == "piece" else room.sum(chunk)
        if not self._sending.bulk(to, kind, rid, chunk, words) and to in self._linked:
            self._perform(self._machine.bulk_refused(to, rid, kind, chunk, trio.current_time()))

    def _room(self, rid: bytes) -> Room:
        """The buffers of an attempt; a transfer may want them a moment before its Open is performed."""
        return self._shop.open(rid, self._machine.ballots.get(rid).terms, self._machine.chain.base.bound)

    def _close(self, rid: bytes, why: str, spent: bool) -> None:
        self._shop.close(rid)
        if why in QUIET_ENDINGS:
            return
        self._lost, self._last_loss = self._lost + 1, why
        self._notify("round.closed", {"round": self.round + 1, "why": why, "spent": spent})
        if spent:
            self._turn.settle(None)

    # -- work in threads, whose results are inputs again

    async def _contribute(self, rid: bytes, masks: Masks | None) -> None:
        shop, turn = self._shop, self._turn
        if (room := shop.room(rid)) is None:
            return None
        if turn.local is None:
            return self._fail(rid, UserError("the update is gone"))
        shop.measured = self.measured
        try:
            hashes = await shop.contribute(room, rid, masks, turn.local, self._origin, turn.weight, self.batches)
        except UserError as error:
            return self._fail(rid, error)
        return self._perform(self._machine.contributed(rid, hashes, trio.current_time()))

    async def _combine(self, rid: bytes, chunk: int, included: tuple[bytes, ...], opening: Masks | None) -> None:
        if (room := self._shop.room(rid)) is not None:
            hash_ = await self._shop.combine(room, chunk, included, opening, self._machine.keyring.me)
            self._perform(self._machine.combined(rid, chunk, hash_, trio.current_time()))

    async def _apply(self, rid: bytes, sums: tuple[bytes, ...], included: tuple[bytes, ...]) -> None:
        if (room := self._shop.room(rid)) is None:
            return None
        try:
            head = await self._shop.apply(room, sums, included)
        except UserError as error:
            return self._fail(rid, error)
        return self._perform(self._machine.applied(rid, head, trio.current_time()))

    def _fail(self, rid: bytes, error: UserError) -> None:
        """This peer cannot go on with an attempt: it leaves, and trains on if it may send another update."""
        self._perform(self._machine.failed(rid, told(error), trio.current_time()))
        self._turn.fail(error)

    async def _keep_snapshot(self, head: Head, parameters: Vector) -> None:
        """One that cannot be kept ends the run: asked for again, it would be sent again, and again."""
        await self._shop.keep(Candidate(head, parameters, ()))
        self._perform(self._machine.fetched(head, trio.current_time()))

    async def _adopt(self, effect: fx.Adopt, others: tuple[Certificate, ...], roster: tuple[bytes, ...]) -> None:
        """Make a state the base; then the effects that came after it may be performed."""
        head = effect.head
        await self._shop.adopt(head, effect.certificate, others, roster, self._machine.keyring.me)
        self._dropped = self._dropped or not (effect.keep_update or self._turn.waits)
        self._notify("round.certified", {"round": head.round, "state": head_hash(head)[:4].hex()})
        if self._turn.waits and (not effect.keep_update or head.round >= self._task.rounds):
            self._turn.settle(self._joint())
        self._resume()
