"""The task: what is learned, by which rules, as one frozen struct; its id is the hash of its canonical encoding.

The canonical form leaves out every field that has its default value, and an empty section with it. So a later version
may add a field with a default and the TaskId of every task published before stays the same. A default therefore never
changes, and a field that nothing implements does not exist.

    TaskId = SHA-256("discod/task/1" | msgpack of the nested maps, keys sorted, defaults left out)

Values are checked once, when a task is decoded or loaded (taskfile.py says in plain words what is wrong, and
contradictions.py which legal values cannot stand together); inside, a TaskSpec is trusted. The descriptions below are
also the comments of a written task file. Pure.
"""

from __future__ import annotations

import hashlib
import math
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from discod.aggregators import ROBUST, RobustRule
from discod.wire.federated import FallbackSpec, FederatedSpec

TASK_LABEL = b"discod/task/1"
SCHEMA = 1
MAX_TASK_BYTES = 16_384
LEAST_SECURE = 3  # peers in a secure sum

Name = Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9_-]{0,63}$")]
Count = Annotated[int, Meta(ge=1, le=1 << 31)]
Size = Annotated[int, Meta(ge=1, le=65_536)]


class DataSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a peer's data must look like. Normalisation uses these public bounds, never a peer's own statistics."""

    classes: Annotated[int, Meta(ge=2, le=65_536, description="labels are 0 .. classes-1")]
    shape: Annotated[
        tuple[Size, ...], Meta(min_length=1, max_length=3, description="of one row: [features], [h, w] or [h, w, c]")
    ]
    kind: Annotated[Literal["npz", "csv"], Meta(description="npz (arrays) or csv (numbers, one header line)")] = "npz"
    dtype: Annotated[Literal["float32", "uint8"], Meta(description="how inputs are kept: float32 or uint8")] = "float32"
    inputs: Annotated[
        tuple[str, ...], Meta(description='npz: one array (empty: "x"); csv: columns (empty: all but the label)')
    ] = ()
    labels: Annotated[str, Meta(description='npz: an array (empty: "y"); csv: a column (empty: the last)')] = ""
    low: Annotated[tuple[float, ...], Meta(min_length=1, description="becomes 0: one value, or one per feature")] = (
        0.0,
    )
    high: Annotated[tuple[float, ...], Meta(min_length=1, description="becomes 1: one value, or one per feature")] = (
        1.0,
    )

    @property
    def features(self) -> int:
        """How many numbers one row has."""
        return math.prod(self.shape)


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which model, by name."""

    name: Annotated[Literal["logreg", "mlp", "mlp-2nn", "lenet"], Meta(description="logreg, mlp, mlp-2nn or lenet")]
    hidden: Annotated[tuple[Size, ...], Meta(max_length=16, description="mlp only: widths of the hidden layers")] = ()


class TrainingSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Local training between two rounds."""

    learning_rate: Annotated[float, Meta(gt=0, le=1000, description="step size")] = 0.1
    momentum: Annotated[float, Meta(ge=0, lt=1, description="0 is plain SGD")] = 0.0
    batch_size: Annotated[int, Meta(ge=1, le=65_536, description="rows in a step")] = 32
    optimizer: Annotated[Literal["sgd"], Meta(description="sgd")] = "sgd"
    loss: Annotated[Literal["cross-entropy"], Meta(description="cross-entropy")] = "cross-entropy"
    validation_split: Annotated[float, Meta(ge=0, lt=1, description="fraction of a peer's rows kept to measure on")] = (
        0.1
    )


class RoundSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When peers combine what they learned."""

    rounds: Annotated[Count, Meta(description="joint rounds until the task is done")] = 40
    round_duration: Annotated[Count, Meta(description="batches of local training in a round")] = 8
    min_peers: Annotated[int, Meta(ge=2, le=255, description="no round with fewer peers")] = 3
    quorum: Annotated[Literal["threshold", "majority"], Meta(description="threshold, or majority of all trainers")] = (
        "threshold"
    )
    straggle_seconds: Annotated[
        float, Meta(ge=0, le=86_400, description="wait for slow peers; 0: from the training time")
    ] = 0.0


class AggregationSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How updates become one."""

    aggregator: Annotated[
        Literal["secure", "mean", "median", "trimmed-mean", "multi-krum"],
        Meta(
            description="secure (nobody sees an update, 3 peers at least), mean (peers see slices of them), or against"
            " false updates median, trimmed-mean or (federated) multi-krum"
        ),
    ] = "secure"
    audit: Annotated[
        Literal["none", "witness"],
        Meta(description="none, or witness: a second peer sums each chunk too, and both must agree (3 vectors sent)"),
    ] = "none"
    weighting: Annotated[Literal["samples", "uniform"], Meta(description="by samples seen, or all alike")] = "samples"
    liars: Annotated[
        int, Meta(ge=0, le=127, description="trimmed-mean and multi-krum: how many updates may be false")
    ] = 0
    weight_cap: Annotated[
        int, Meta(ge=0, le=1 << 31, description="samples that count at most; 0: a full round of batches")
    ] = 0
    bound: Annotated[float, Meta(gt=0, le=65_536, description="largest update word of round 1, a power of two")] = 1.0


class PrivacySpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a released update may betray. Record-level is DP-SGD: privacy of each row, against everybody.

    With `epsilon` the noise follows from each peer's number of rows; with `noise_multiplier` epsilon does. Peer-level
    hides a whole peer: its update is clipped as one vector and noised as it leaves (discod.privacy.peers).
    """

    unit: Annotated[
        Literal["none", "record", "peer"],
        Meta(description="record: noise hides each row; peer: it hides each peer's whole update; none: no noise"),
    ] = "none"
    epsilon: Annotated[
        float,
        Meta(ge=0, le=100, description="most that may be learned of a row; smaller hides more; 0: not given"),
    ] = 0.0
    delta: Annotated[float, Meta(gt=0, lt=0.1, description="chance that epsilon does not hold")] = 1e-5
    noise_multiplier: Annotated[
        float,
        Meta(ge=0, le=1000, description="noise of a step, or update, in units of clip; in place of epsilon; 0: none"),
    ] = 0.0
    clip: Annotated[
        float,
        Meta(
            gt=0, le=1e6, description="most that one row can move a step: its gradient's norm; or a peer: its update's"
        ),
    ] = 1.0
    metrics: Annotated[
        Literal["none", "joint"],
        Meta(description="none, or joint: peers add up how the model does on their validation rows, and all see it"),
    ] = "none"


class TaskSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything peers must agree on to train one model together."""

    name: Annotated[Name, Meta(description="lower case letters, digits, - and _")]
    data: DataSpec
    model: ModelSpec
    schema: Annotated[int, Meta(ge=1, description="version of this format")] = SCHEMA
    title: Annotated[str, Meta(max_length=200, description="one line for people")] = ""
    summary: Annotated[str, Meta(max_length=4000, description="what it is for, for people")] = ""
    scheme: Annotated[
        Literal["decentralized", "federated", "local"],
        Meta(description="decentralized, federated (a node sums the updates, and sees each), or local (alone)"),
    ] = "decentralized"
    seed: Annotated[
        int, Meta(ge=0, le=(1 << 63) - 1, description="first parameters, batch order and validation rows")
    ] = 0
    target: Annotated[float | None, Meta(description="accuracy below which the task counts as failed")] = None
    training: TrainingSpec = TrainingSpec()
    round: RoundSpec = RoundSpec()
    aggregation: AggregationSpec = AggregationSpec()
    privacy: PrivacySpec = PrivacySpec()
    federated: FederatedSpec = FederatedSpec()
    fallback: FallbackSpec = FallbackSpec()

    @property
    def id(self) -> bytes:
        """The TaskId, 32 bytes."""
        return hashlib.sha256(TASK_LABEL + encode_task(self)).digest()

    @property
    def has_fallback(self) -> bool:
        """Whether it goes on in a node's buffer while no quorum is linked."""
        return self.scheme == "decentralized" and self.fallback.node != ""

    @property
    def hosting(self) -> FederatedSpec:
        """The rules of the node's buffer."""
        return self.fallback if self.has_fallback else self.federated

    @property
    def rounds(self) -> int:
        return self.round.rounds

    @property
    def round_duration(self) -> int:
        """Batches of local training in a round."""
        return self.round.round_duration

    @property
    def min_peers(self) -> int:
        return 1 if self.scheme == "local" else self.round.min_peers

    @property
    def quorum(self) -> str:
        return self.round.quorum

    @property
    def straggle_seconds(self) -> float:
        return self.round.straggle_seconds

    @property
    def aggregator(self) -> str:
        return self.aggregation.aggregator

    @property
    def robust(self) -> RobustRule | None:
        """The rule by which updates are joined if not by a sum."""
        sums = self.aggregation
        return RobustRule(sums.aggregator, sums.liars) if sums.aggregator in ROBUST else None

    @property
    def weighting(self) -> str:
        """Under DP a weight by samples would tell how many rows a peer has; a robust rule believes no claim of them."""
        return "uniform" if self.is_private or self.robust else self.aggregation.weighting

    @property
    def is_private(self) -> bool:
        """Whether noise is added: to each step, or to each update."""
        return self.privacy.unit != "none"

    @property
    def noises_steps(self) -> bool:
        """Whether training is DP-SGD: random batches, clipped gradients, noise."""
        return self.privacy.unit == "record"

    @property
    def steps(self) -> int:
        """Batches of local training in all rounds of the task."""
        return self.rounds * self.round_duration

    @property
    def weight_cap(self) -> int:
        """Samples above which a contribution's weight grows no more; a full round of full batches unless set."""
        return self.aggregation.weight_cap or self.round_duration * self.batch_size

    @property
    def bound(self) -> float:
        return self.aggregation.bound

    @property
    def batch_size(self) -> int:
        return self.training.batch_size


def encode_task(spec: TaskSpec) -> bytes:
    """The canonical encoding: what is published, and what the TaskId is the hash of."""
    return _CANONICAL.encode(_without_defaults(spec))


_CANONICAL = msgspec.msgpack.Encoder(order="deterministic")


def _without_defaults(section: msgspec.Struct) -> dict[str, Any]:
    """Nested maps of what differs from the defaults. By value: a default written out in a file is still a default."""
    kept: dict[str, Any] = {}
    for field in msgspec.structs.fields(section):
        value = getattr(section, field.name)
        if value == field.default:
            continue
        kept[field.name] = _without_defaults(value) if isinstance(value, msgspec.Struct) else value
    return kept
