"""The federated exchange: at the end of a round push, then pull, at the node that the task names (protocol.md 7).

    round_end     Offer -> Bring, spend, Push -> Pushed      (refused: nothing left this peer, nothing was charged)
                  Pull  -> a newer version: adopted, on disk first, and training goes on from it
                           nothing newer: asynchronous: training goes on with its own parameters
                                          synchronous: wait for it, as long as the node is there
    no node       training goes on with its own parameters

The version is that of the last model pulled; a push does not change it. An update is local - origin; the origin is the
last model pulled, in the first round too, or the parameters of the own push that the node has put into a version.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import trio

from discod.daemon.charging import Charging
from discod.daemon.exchanging import ExchangeStatus
from discod.daemon.routing import RunEvent
from discod.daemon.turn import LAST
from discod.daemon.versions import Base, Versions
from discod.daemon.workshop import Reached, reach_nothing
from discod.errors import Broken, PeerError, UserError
from discod.identity import Identity, Members, TaskOffer, parse_id, parse_record
from discod.p2p.dial import BackOff
from discod.p2p.hosting import UNKNOWN_STATE, Hosting, NewVersion, Stay, Turned
from discod.p2p.mesh import Mesh, SignalingAt
from discod.p2p.rendezvous import own_records
from discod.ring import FULL_WEIGHT, NotFinite, weight_word
from discod.store import Store
from discod.train.rounds import JointState, Measured
from discod.train.task import TaskSpec, encode_task
from discod.train.vector import Vector
from discod.wire.federated import Offer, Pushed, hosted_scope
from discod.wire.links import BulkHeader

FIRST_RETRY_SECONDS, MOST_RETRY_SECONDS = 0.5, 30.0
BEAT_SECONDS = 20.0
ENTRY_SECONDS = 10.0  # that the first round waits for the node, to begin with the newest version
RETURN_SECONDS = 3.0  # that a round whose conversation broke off waits for the next one
UNSENT = "unsent"
SEQ_BITS = 24  # pushes of one start of the daemon


class FederatedExchange:
    """A RunExchange (exchanging.py) with the federated buffer of a node."""

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
        jitter: random.Random | None = None,
        versions: Versions | None = None,
    ) -> None:
        self._task, self._members, self._mesh, self._identity = task, members, mesh, identity
        self._notify, self._reached, self._least = notify, reached, min_peers
        self._node = parse_id(task.hosting.node)
        self._hosted = hosted_scope(members.mesh_id, encode_task(task))
        self._versions = versions or Versions(store, task, scope, self._hosted, initial_parameters, charging)
        self._base: Base = self._versions.load()
        self.batches = 0
        self.measured: Measured | None = None  # no task of this scheme sends it
        self._ground = self._origin = self._base.parameters  # what an update is measured from, no push being counted
        self._since = 0
        self._attempt, self._last = 0, 0  # this round's push, and the last one that the node said it has
        self._sent: dict[int, Vector] = {}  # pushes that may get into a version, with what they were made of
        self._untouched = True  # nothing was trained since the base
        self._seq = store.next_number(f"push {scope.hex()}", int(time.time())) << SEQ_BITS
        self._line: Hosting | None = None
        self._lock = trio.Lock()
        self._entered, self._hung_up = trio.Event(), trio.Event()
        self._back_off = BackOff(jitter or random.Random(), FIRST_RETRY_SECONDS, MOST_RETRY_SECONDS)  # noqa: S311  (spreads waits)
        self._retired = self._has_begun = False
        self._phase, self._why, self._refused, self._waits_there = "idle", "", 0, False
        self._up = self._down = 0

    # -- what the daemon asks

    @property
    def parameters(self) -> Vector:
        """(d,) of the base; not to be written to."""
        return self._base.parameters

    @property
    def round(self) -> int:
        """The version of the base."""
        return self._base.version

    @property
    def base(self) -> bytes:
        """The (32,) name of the base."""
        return self._base.state

    @property
    def certificate(self) -> bytes:
        """What the node signed of the base; empty before the first version."""
        return self._base.certificate

    def set_out(self) -> Vector:
        """(d,) the base that training goes on from."""
        return self._base.parameters

    def status(self) -> ExchangeStatus:
        """Where it stands. Nobody is waited for here but the node: all that may train count as ready."""
        line = self._line
        return ExchangeStatus(
            self._phase if line is not None else "away",
            self._members.trainers(),
            self._base.contributors,
            self._refused,
            self._why,
            self._up + (line.bytes_up if line is not None else 0),
            self._down + (line.bytes_down if line is not None else 0),
            waits_there=self._waits_there,
        )

    def round_of(self, peer: bytes) -> int | None:
        """Nobody but the node knows."""
        return None

    def retire(self, why: str = "finished") -> None:
        """This peer trains no more: the others need not wait for it."""
        self._retired = True
        self._hang_up(why)

    def members_changed(self) -> None:
        """The node looks for itself."""

    def deliver(self, event: RunEvent) -> None:
        """Links carry nothing of this scheme."""

    def expect(self, peer: bytes, header: BulkHeader) -> memoryview | None:
        """Nothing."""
        return None

    # -- the conversation with the node

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a conversation with the node until cancelled.  Raises: UserError when this peer's policy forbids it."""
        rule = self._task.hosting
        updates = (rule.capacity if rule.mode == "asynchronous" else rule.quorum) or self._task.round.min_peers
        if updates < self._least:
            why = f"the node makes versions of {updates} updates, this peer's policy is {self._least} at least"
            raise UserError(why, "lower policy.min_peers, or ask for another task", code="too-few-peers")
        task_status.started()
        while not self._retired:
            if await self._visit():
                self._back_off.reset()
            if not self._retired:
                await trio.sleep(self._back_off.next())
        await trio.sleep_forever()

    def _address(self) -> SignalingAt:
        """Raises: Broken."""
        for at in self._mesh.nodes(self._members.mesh_id):
            if at.key == self._node:
                return at
        raise Broken(None, "no signaling node of this mesh has the key that the task names")

    async def _visit(self) -> bool:
        """One conversation, to its end; whether we were let in."""
        entered = False
        async with trio.open_nursery() as nursery:
            try:
                at = self._address()
                conversation = await self._mesh.call(at, nursery)
                try:
                    await self._enter(Hosting(conversation, self._identity, at.address, self._node, self._stay()))
                    entered = True
                    await self._keep()
                finally:
                    await conversation.aclose()
            except PeerError as error:
                if isinstance(error, Turned) and error.code == UNKNOWN_STATE:
                    self._versions.not_known()
                self._hang_up(error.why)
            nursery.cancel_scope.cancel()
        self._hang_up("")
        return entered

    async def _enter(self, line: Hosting) -> None:
        members = self._members
        who_is_who = [data for data in members.records() if not isinstance(parse_record(data).body, TaskOffer)]
        answer = await line.enter(own_records(members, self._identity.public), who_is_who, time.time())
        self._line, self._hung_up, self._why, self._last = line, trio.Event(), "", answer.last
        self._notify("node.entered", {"version": answer.version, "behind": answer.version - self.round})
        self._entered.set()

    def _stay(self) -> Stay:
        """Raises: Broken."""
        encoded = encode_task(self._task)
        for data in self._members.records():
            body = parse_record(data).body
            if isinstance(body, TaskOffer) and body.task == encoded and self._members.may_publish(body.publisher):
                at = self._versions.place
                size = len(self.parameters)
                return Stay(self._members.mesh_id, self._hosted, data, at.origin, size, at.head, at.vector)
        raise Broken(None, "nobody who may has published this task")

    async def _keep(self) -> None:
        """Beat until somebody hangs up.  Raises: PeerError."""
        hung_up, line = self._hung_up, self._line
        while line is not None and not hung_up.is_set():
            with trio.move_on_after(BEAT_SECONDS):
                await hung_up.wait()
            if not hung_up.is_set() and not self._lock.locked():  # else somebody speaks with the node anyway
                async with self._lock:
                    await line.beat()

    def _hang_up(self, why: str) -> None:
        line, self._line = self._line, None
        self._why = why or self._why
        if line is not None:
            self._up, self._down = self._up + line.bytes_up, self._down + line.bytes_down
            self._entered = trio.Event()
            self._notify("node.lost", {"why": why or "the conversation ended"})
        self._hung_up.set()

    # -- training

    async def round_begin(self) -> JointState | None:
        """From the newest version, unless something was trained already."""
        with trio.move_on_after(0 if self._has_begun else ENTRY_SECONDS):
            await self._entered.wait()
        self._has_begun = True
        if not self._untouched or self._line is None:
            return None
        async with self._lock:
            return await self._ask(lambda line: self._pull(line, wait=False))

    async def round_end(self, local: Vector, weight: int) -> JointState | None:
        """Push, then pull. Cancelled: the node may have the push or not; `since` finds out with the next."""
        await trio.lowlevel.checkpoint()
        self._untouched = self._waits_there = False
        self._attempt = 0
        if self.round >= self._task.rounds:
            return self._joint()
        if self._line is None:
            self._why = self._why or "the node is away"
            return None
        async with self._lock:
            try:
                line = self._line
                found = await self._ask(lambda line: self._push_and_pull(line, local, weight))
                if self._line is not line and await self._is_back():  # once more; what arrived is not sent again
                    found = await self._ask(lambda line: self._push_and_pull(line, local, weight))
                return found
            finally:
                self._phase = "idle"

    async def _is_back(self) -> bool:
        with trio.move_on_after(RETURN_SECONDS):
            await self._entered.wait()
        return self._line is not None

    async def _ask(self, what: Callable[[Hosting], Any]) -> JointState | None:
        """What the node answers; None when it does not, or says what it should not."""
        if (line := self._line) is None:
            return None
        try:
            found: JointState | None = await what(line)
        except PeerError as error:
            self._hang_up(error.why)
            return None
        except BaseException:
            self._hang_up("a question was broken off")  # its answer would be taken for the next one's
            raise
        return found

    async def _push_and_pull(self, line: Hosting, local: Vector, weight: int) -> JointState | None:
        self._phase = "pushing"
        is_kept = await self._push(line, local, weight) == ""
        self._phase = "pulling"
        together = self._task.hosting.mode == "synchronous"
        return await self._pull(line, wait=together and is_kept)

    async def _push(self, line: Hosting, local: Vector, weight: int) -> str:
        """The node's answer, empty when it keeps the update; UNSENT when this peer may not or cannot send it."""
        if 0 < self._attempt <= self._last:
            return ""  # the node has it: only its answer was lost
        if not self._versions.covers(self.batches):
            return self._unsent("all that the privacy of the task is planned for is sent")
        self._seq += 1
        answer = await line.offer(self._offer())
        if isinstance(answer, Pushed) and answer.code == "counted" and self._remeasure(answer.counted):
            answer = await line.offer(self._offer())
        if isinstance(answer, Pushed):
            return self._told(answer)
        self._reached("contribute", self.round + 1)
        try:
            vector, hash_ = await trio.to_thread.run_sync(self._spend, local)
        except (UserError, NotFinite) as error:
            if isinstance(error, LAST):
                raise
            return self._unsent(str(error))
        self._sent[self._seq], self._attempt = local.copy(), self._seq
        self._reached("spent", self.round + 1)
        code = self._told(await line.push(self._offer(), self._weight(weight), vector, hash_), self._weight(weight))
        if code:
            del self._sent[self._seq]
        else:  # it has replaced what came before
            self._sent = {self._seq: self._sent[self._seq]}
        return code

    def _unsent(self, why: str) -> str:
        self._why = why
        self._notify("federated.unsent", {"round": self.round + 1, "why": why})
        return UNSENT

    def _offer(self) -> Offer:
        return Offer(self._seq, self.round, self._since, 4 * len(self.parameters))

    def _remeasure(self, counted: int) -> bool:
        """An earlier push of this base is in a version (none, if 0): what was learned since is what may be pushed."""
        if counted == 0:
            self._origin, self._since = self._ground, 0
            return True
        if counted not in self._sent:
            return False  # what was pushed then is not known any more: pull, and start from there
        self._since, self._origin = counted, self._sent[counted]
        return True

    def _spend(self, local: Vector) -> tuple[bytes, bytes]:
        vector = self._versions.update_bytes(local, self._origin)
        return vector, self._versions.spend(self.base, self._seq, vector, self.batches)

    def _weight(self, samples: int) -> int:
        uniform = self._task.weighting == "uniform"
        return FULL_WEIGHT if uniform else weight_word(samples, self._task.weight_cap)

    def _told(self, answer: Pushed, weight: int = 0) -> str:
        seen = {"base": self.round, "version": answer.version, "waiting": answer.waiting}
        if answer.code:
            self._refused, self._why = self._refused + 1, f"the node refused an update: {answer.why}"
            self._notify("federated.refused", seen | {"code": answer.code, "why": answer.why})
        else:
            self._waits_there = True
            self._notify("federated.pushed", seen | {"weight": weight, "seq": answer.seq})
        return answer.code

    async def _pull(self, line: Hosting, *, wait: bool) -> JointState | None:
        while True:
            found = await line.pull(self.round, wait=wait)
            if isinstance(found, NewVersion):
                return await self._adopt(line, found)
            if found.version < self.round:
                why = f"the node has version {found.version}, this peer {self.round}: it lost what it had"
                self._why, wait = why, False
                self._notify("node.behind", {"version": found.version, "round": self.round})
            if not wait:
                return None
            self._phase = f"waiting for others: {found.waiting} updates so far"

    async def _adopt(self, line: Hosting, found: NewVersion) -> JointState:
        """Raises: Broken (the node tells another story than before), UserError (disk-full)."""
        said = found.said
        if said.version == self.round + 1 and said.parent != self._base.name:
            raise Broken(None, f"the node's version {said.version} does not follow its version {self.round}")
        self._reached("adopt", said.version)
        with trio.CancelScope(shield=True):
            self._base = await self._versions.take(found, line.key)
        self._reached("adopted", said.version)
        names = [self._members.name(peer) for peer in said.contributors]
        weights = dict(zip(names, said.weights, strict=True))
        self._notify("round.certified", {"round": said.version, "state": self.base[:4].hex(), "weights": weights})
        return self._joint()

    def _joint(self) -> JointState:
        base = self._base
        self._ground = self._origin = base.parameters
        self._since, self._sent = 0, {}
        self._untouched, self._waits_there = True, False
        return JointState(base.version, base.parameters, base.contributors)
