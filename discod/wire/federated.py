"""The federated buffer: its rules as a task states them, and what a peer and the hosting node say (protocol.md 7).

    peer                                     node                       (a WebSocket of its own, at /v1 as every other)
       -> Knock                  <- Hello                               (the node's key must be the one the task names)
       -> Show                                                          (records of the mesh, in parts, if asked for)
       -> Enter                  <- Entered | Denied                    (a member, with the signed task)
                                 <- Bring; -> raw pieces; <- Entered    (a fallback's first visitor: the state it is at)
       -> Offer                  <- Bring | Pushed                      (Pushed: refused, with the reason; nothing left)
       -> Push, raw pieces       <- Pushed                              (kept on disk, or refused with the reason)
       -> Pull                   <- Published, raw pieces | Current     (waits for a newer version if asked to)
       -> Beat                   <- Beat

A request is answered before the next is read. Vectors are little-endian float32 in pieces of PIECE_BYTES; their size
is in the message before and is checked before any memory is taken. What the node publishes is the sum of the means of
all versions so far: a peer adds it to the task's first parameters, which the node never needs to know.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from discod.aggregators import ROBUST, RobustRule
from discod.errors import Refused
from discod.wire.codec import digest

PIECE_BYTES = 60 << 10  # of a vector in one message
MAX_CONTRIBUTORS = 255
WAIT_SECONDS = 20.0  # that a Pull is held back at most
ENTER_LABEL = b"discod/federated-enter/1"
PUSH_LABEL = b"discod/federated-push/1"
VERSION_LABEL = b"discod/federated-version/1"

Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
Text = Annotated[str, Meta(max_length=300)]
Number = Annotated[int, Meta(ge=0, lt=1 << 62)]
Weight = Annotated[int, Meta(ge=1, le=65_535)]
Records = Annotated[tuple[bytes, ...], Meta(max_length=24)]


class FederatedSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """When a hosting node makes a new version from the updates it was sent. For scheme federated only."""

    node: Annotated[str, Meta(max_length=80, description="key of the hosting node, as `signaling serve` shows it")] = ""
    mode: Annotated[
        Literal["asynchronous", "synchronous"],
        Meta(description="asynchronous (nobody waits), or synchronous (all wait for the next version)"),
    ] = "asynchronous"
    capacity: Annotated[
        int, Meta(ge=0, le=MAX_CONTRIBUTORS, description="asynchronous: updates that make a version; 0: min_peers")
    ] = 0
    cutoff: Annotated[int, Meta(ge=0, le=1000, description="asynchronous: versions that an update may be behind")] = 0
    max_age_seconds: Annotated[
        float, Meta(ge=0, le=604_800, description="asynchronous: the oldest update waits no longer; 0: for ever")
    ] = 0.0
    quorum: Annotated[
        int, Meta(ge=0, le=MAX_CONTRIBUTORS, description="synchronous: no version of fewer updates; 0: min_peers")
    ] = 0
    deadline_seconds: Annotated[
        float, Meta(gt=0, le=86_400, description="synchronous: from the first update on, wait so long for the others")
    ] = 60.0


class FallbackSpec(FederatedSpec, frozen=True, forbid_unknown_fields=True):
    """How a decentralized task goes on while no quorum is linked: in a node's buffer. Off while `node` is empty."""

    after_seconds: Annotated[
        float, Meta(ge=1, le=604_800, description="without a quorum, until updates go to the node instead")
    ] = 60.0


class _Rounds(Struct, frozen=True):
    rounds: int = 40
    min_peers: int = 3


class _Sums(Struct, frozen=True):
    aggregator: Literal["secure", "mean", "median", "trimmed-mean", "multi-krum"] = "secure"
    liars: Annotated[int, Meta(ge=0, le=127)] = 0


class HostedTask(Struct, frozen=True):
    """What a hosting node reads of a task; the rest of it is none of its business."""

    scheme: str = ""
    round: _Rounds = _Rounds()
    federated: FederatedSpec = FederatedSpec()
    aggregation: _Sums = _Sums()
    fallback: FallbackSpec = FallbackSpec()

    @property
    def robust(self) -> RobustRule | None:
        """The rule that joins the updates if it is not their mean."""
        sums = self.aggregation
        return RobustRule(sums.aggregator, sums.liars) if sums.aggregator in ROBUST else None

    @property
    def fewest(self) -> int:
        """Updates that a version may be made of."""
        rule = self.rule
        if rule.mode == "synchronous":
            return self.quorum
        return 1 if rule.max_age_seconds else self.capacity

    @property
    def is_fallback(self) -> bool:
        """Decentralized (the default, so left out), with a node to fall back to."""
        return self.scheme == "" and self.fallback.node != ""

    @property
    def rule(self) -> FederatedSpec:
        return self.fallback if self.is_fallback else self.federated

    @property
    def capacity(self) -> int:
        return self.rule.capacity or self.round.min_peers

    @property
    def quorum(self) -> int:
        return self.rule.quorum or self.round.min_peers


def hosted_task(encoded: bytes) -> HostedTask:
    """The part of a task in its canonical encoding that the node obeys.  Raises: Refused."""
    try:
        task = msgspec.msgpack.decode(encoded, type=HostedTask)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(None, f"not a task that can be hosted: {error}") from None
    if task.robust is not None and task.fewest < task.robust.least:
        raise Refused(None, f"not a task that can be hosted: {task.robust.name} of {task.fewest} updates")
    return task


class _Said(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=True):
    pass


class Show(_Said, frozen=True, tag="show"):
    """Records of a mesh that the node does not know."""

    records: tuple[bytes, ...]


class Enter(_Said, frozen=True, tag="enter"):
    """I, the holder of `key`, take part in `task` (its signed offer) with a vector of `floats` float32.

    `origin` names the state that all start from. `signature` is over `enter_statement`. In a fallback `head` is the
    certified Head of that name: versions go on from its round, and whoever opens the buffer is asked for the vector.
    """

    mesh: Hash
    key: Hash
    time: int
    records: Records
    offer: bytes
    origin: Hash
    floats: Annotated[int, Meta(ge=1, le=1 << 30)]
    signature: Signature
    head: Annotated[bytes, Meta(max_length=300)] = b""


class Entered(_Said, frozen=True, tag="entered"):
    """The version that the node has now, and the last sequence number that it kept of this peer."""

    version: Number
    state: Hash
    last: Number


class Offer(_Said, frozen=True, tag="offer"):
    """May I push? An update made from version `base`, or since the own push `since` where that is in a version by now.

    Tells nothing of the update: it is spent only when Bring comes.
    """

    seq: Number
    base: Number
    since: Number
    size: Number


class Bring(_Said, frozen=True, tag="bring"):
    """Yes: Push, and the vector. With seq 0 in answer to an Enter: send the vector of its head."""

    seq: Number


class Push(_Said, frozen=True, tag="push"):
    """The Manifest of the vector that follows: `hash` is its SHA-256, the signature is over `push_statement`."""

    seq: Number
    base: Number
    since: Number
    weight: Weight
    size: Number
    hash: Hash
    signature: Signature


class Pushed(_Said, frozen=True, tag="pushed"):
    """Kept on disk (`code` is empty), or refused: `code` is stable, `why` is for people.

    `version` is what the node has now; `counted` the own push that is in a version, if that is the reason.
    """

    seq: Number
    code: Text
    why: Text
    version: Number
    counted: Number
    waiting: int  # updates in the buffer, this one included


class Pull(_Said, frozen=True, tag="pull"):
    """What is newer than `version`? With `wait` the answer may take WAIT_SECONDS."""

    version: Number
    wait: bool


class Current(_Said, frozen=True, tag="current"):
    """Nothing newer."""

    version: Number
    waiting: int


class Published(_Said, frozen=True, tag="published"):
    """The newest version; its vector of `size` bytes with SHA-256 `hash` follows.

    Whose updates are in it, with which weights; `signature` by the node is over `version_state`.
    """

    version: Number
    parent: Hash
    hash: Hash
    size: Number
    contributors: Annotated[tuple[Hash, ...], Meta(max_length=MAX_CONTRIBUTORS)]
    weights: Annotated[tuple[float, ...], Meta(max_length=MAX_CONTRIBUTORS)]
    signature: Signature


ToBuffer = Show | Enter | Offer | Push | Pull
FromBuffer = Entered | Bring | Pushed | Current | Published


def hosted_scope(mesh: bytes, task: bytes) -> bytes:
    """The (32,) name of a task, by its canonical encoding, in a mesh, as the node and its visitors sign it."""
    return digest("discod/federated/scope", mesh, task)


def enter_statement(nonce: bytes, host: str, enter: Enter) -> bytes:
    """What an entering peer signs: the node's nonce, the host as dialled, and all it says."""
    numbers = enter.time.to_bytes(8, "little") + enter.floats.to_bytes(8, "little")
    return digest("discod/federated/enter", nonce, host.encode(), enter.mesh, enter.offer, enter.origin, numbers)


def push_statement(scope: bytes, origin: bytes, push: Push) -> bytes:
    """What a contributor signs: its update, for one place only."""
    numbers = b"".join(n.to_bytes(8, "little") for n in (push.seq, push.base, push.since, push.weight, push.size))
    return digest("discod/federated/push", scope, origin, numbers, push.hash)


def version_state(scope: bytes, origin: bytes, version: int, parent: bytes, hash_: bytes) -> bytes:
    """The (32,) name of a version, which the node signs; version 0 is called `origin`."""
    return digest("discod/federated/version", scope, origin, version.to_bytes(8, "little"), parent, hash_)
