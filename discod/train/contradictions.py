"""Values of a task that are legal one by one but impossible together: what is wrong, why, and what to try. Pure.

One check, one subject; the first that finds something speaks.
"""

from __future__ import annotations

import math

from discod.errors import BadData
from discod.identity.ids import parse_id
from discod.privacy.accountant import OutOfRange
from discod.privacy.peers import plan_peer_noise
from discod.train.task import LEAST_SECURE, SCHEMA, TaskSpec
from discod.wire.federated import FallbackSpec, FederatedSpec

MAX_FEATURES = 1 << 24  # inputs of one row
LENET_SIDE = 16  # pixels; below it two 5x5 convolutions and two poolings leave nothing
PER_EXAMPLE = frozenset(("logreg", "mlp", "mlp-2nn", "lenet"))  # models that tell the gradient of each row (models/)

Finding = tuple[str, str] | None  # (what is wrong and why, what to try)


def contradiction(spec: TaskSpec) -> Finding:
    """(what is wrong and why, what to try) for values that are legal one by one but impossible together, or None."""
    return next((found for check in _CHECKS if (found := check(spec)) is not None), None)


def _schema(spec: TaskSpec) -> Finding:
    if spec.schema == SCHEMA:
        return None
    return (
        f"schema = {spec.schema}: this discod knows only schema {SCHEMA}",
        "update discod, or ask for the task in the older schema",
    )


def _features(spec: TaskSpec) -> Finding:
    if spec.data.features <= MAX_FEATURES:
        return None
    return f"data.shape makes {spec.data.features} numbers a row, more than {MAX_FEATURES}", "use smaller inputs"


def _scale(spec: TaskSpec) -> Finding:
    low, high, features = spec.data.low, spec.data.high, spec.data.features
    for name, values in (("low", low), ("high", high)):
        if len(values) not in (1, features):
            why = f"data.{name} has {len(values)} values for {features} features"
            return why, f"give one value, or {features}"
        if not all(math.isfinite(value) for value in values):
            return f"data.{name} holds a value that is not a finite number", "give the bounds of the inputs"
    pairs = zip(low * (features if len(low) == 1 else 1), high * (features if len(high) == 1 else 1), strict=True)
    if any(below >= above for below, above in pairs):
        return "data.low is not below data.high, so that inputs cannot be scaled", "give a low below its high"
    return None


def _columns(spec: TaskSpec) -> Finding:
    names = spec.data.inputs
    if spec.data.kind == "npz" and len(names) > 1:
        return f"data.inputs names {len(names)} arrays, but kind npz reads one", "name one array"
    if spec.data.kind == "csv" and len(spec.data.shape) != 1:
        return (
            "data.shape has several sides, but a csv row is a flat list of numbers",
            "write shape = [number of columns]",
        )
    if spec.data.kind == "csv" and names and len(names) != spec.data.features:
        why = f"data.inputs names {len(names)} columns, data.shape says {spec.data.features}"
        return why, "make the two agree"
    if len(set(names)) != len(names) or (spec.data.labels and spec.data.labels in names):
        return "data.inputs names a column twice, or the label as an input", "name each column once"
    return None


def _model(spec: TaskSpec) -> Finding:
    name, hidden, shape = spec.model.name, spec.model.hidden, spec.data.shape
    if name == "mlp" and not hidden:
        return "model.hidden is empty, so that mlp has no hidden layer", 'write hidden = [64], or name = "logreg"'
    if name != "mlp" and hidden:
        return f"model.hidden is set, but the layers of {name} are fixed", 'remove hidden, or write name = "mlp"'
    if name == "lenet" and (len(shape) == 1 or min(shape[:2]) < LENET_SIDE):
        return (
            f"lenet needs images of at least {LENET_SIDE}x{LENET_SIDE}, data.shape is {list(shape)}",
            "use mlp or logreg",
        )
    return None


def _bounds(spec: TaskSpec) -> Finding:
    if math.frexp(spec.bound)[0] != 0.5:
        return f"aggregation.bound = {spec.bound:g} is not a power of two", "write 0.5, 1.0, 2.0, ..."
    if spec.target is not None and not 0 < spec.target <= 1:
        return f"target = {spec.target:g} is not an accuracy above 0 and at most 1", "write for example target = 0.9"
    return None


def _privacy(spec: TaskSpec) -> Finding:
    rule = spec.privacy
    if rule.unit == "none" and (rule.epsilon or rule.noise_multiplier):
        name = "epsilon" if rule.epsilon else "noise_multiplier"
        return f'privacy.{name} is set, but unit "none" adds no noise', f'write unit = "record", or remove {name}'
    if rule.unit == "none":
        return None
    if rule.epsilon and rule.noise_multiplier:
        why = "privacy.epsilon and privacy.noise_multiplier are both set, and each decides the noise"
        return why, "keep one: epsilon, and the noise follows; or noise_multiplier, and epsilon follows"
    if not rule.epsilon and not rule.noise_multiplier:
        return f'privacy.unit is "{rule.unit}", but nothing says how much noise', "write for example epsilon = 3.0"
    if rule.unit == "peer":
        return _peer_noise(spec)
    if spec.model.name not in PER_EXAMPLE:
        why = f'privacy.unit is "record", but {spec.model.name} cannot tell the gradient of each row'
        return why, f"use {', '.join(sorted(PER_EXAMPLE))}"
    return None


def _metrics(spec: TaskSpec) -> Finding:
    rule, said = spec.privacy, 'privacy.metrics is "joint", but'
    if rule.metrics == "none":
        return None
    if rule.unit != "none":
        why = f"{said} unit {rule.unit} has no noise for counts of validation rows, which would be told as they are"
        return why, 'write metrics = "none" (each peer then sees its own figures only), or unit = "none"'
    if spec.scheme != "decentralized":
        why = f"{said} in a {spec.scheme} task there is no sum among peers that could hold them"
        return why, 'write metrics = "none", or scheme = "decentralized"'
    if spec.robust is not None:
        why = f"{said} {spec.aggregator} compares words and does not sum them"
        return why, 'write metrics = "none", or aggregator = "secure"'
    if spec.has_fallback:
        why = f"{said} a node that the task falls back to sums updates only"
        return why, 'write metrics = "none", or remove [fallback]'
    if spec.training.validation_split == 0:
        return f"{said} validation_split = 0 leaves no row to measure on", "write for example validation_split = 0.1"
    return None


def _peer_noise(spec: TaskSpec) -> Finding:
    if spec.scheme == "local":
        why = 'privacy.unit is "peer", but scheme local sends nothing that noise could be added to'
        return why, 'write unit = "record", which protects the model, or unit = "none"'
    if spec.aggregator not in ("secure", "mean"):
        why = f'privacy.unit is "peer", but {spec.aggregator} cuts words to a bound that its noise passes'
        return why, 'write aggregator = "secure" or "mean", or unit = "record"'
    try:
        plan_peer_noise(spec)
    except OutOfRange as error:
        return f"privacy: {error.message}", error.hint
    return None


def _federated(spec: TaskSpec) -> Finding:
    rule, least = spec.federated, spec.round.min_peers
    if spec.scheme != "federated":
        unused = rule != FederatedSpec()
        return ("[federated] is filled in, but the scheme is another", 'write scheme = "federated"') if unused else None
    if spec.aggregator == "secure" or spec.aggregation.audit != "none":
        why = "in a federated task the node that sums sees every update: there is no secure sum, and no second owner"
        return why, 'write aggregator = "mean" and audit = "none", or scheme = "decentralized"'
    return _hosting(rule, least, "federated")


def _fallback(spec: TaskSpec) -> Finding:
    rule = spec.fallback
    if rule == FallbackSpec():
        return None
    if spec.scheme != "decentralized":
        return "[fallback] is filled in, but only a decentralized task can fall back", "remove [fallback]"
    if not rule.node:
        return (
            "[fallback] is filled in, but names no node to fall back to",
            "write node = its key, or remove [fallback]",
        )
    if spec.aggregator == "secure" and spec.privacy.unit == "none":
        why = (
            "the node of [fallback] would see updates in the clear, and whoever withholds introductions could force it"
        )
        return why, 'write privacy.unit = "record" with an epsilon, or aggregator = "mean", or remove [fallback]'
    if spec.aggregator not in ("secure", "mean"):
        why = f"[fallback] and aggregator {spec.aggregator} do not go together yet: two ways would join updates"
        return why, 'write aggregator = "mean", or remove [fallback]'
    if spec.privacy.unit not in ("none", "record"):
        why = f'privacy.unit is "{spec.privacy.unit}", and [fallback] does not add its noise to what the node gets yet'
        return why, 'write unit = "record", or remove [fallback]'
    return _hosting(rule, spec.round.min_peers, "fallback")


def _hosting(rule: FederatedSpec, least: int, section: str) -> Finding:
    try:
        parse_id(rule.node)
    except BadData as error:
        return (
            f"{section}.node is not the key of a node: {error.message}",
            "copy it from where `signaling serve` shows it",
        )
    number, name = (rule.capacity, "capacity") if rule.mode == "asynchronous" else (rule.quorum, "quorum")
    if number and number < least:
        return (
            f"{section}.{name} = {number}, but min_peers = {least}: fewer would do",
            f"write {name} = {least}, or more",
        )
    if rule.mode == "synchronous" and (rule.capacity or rule.cutoff or rule.max_age_seconds):
        why = f"{section}.capacity, cutoff and max_age_seconds belong to the asynchronous mode"
        return why, "remove them; quorum and deadline_seconds say when a synchronous version is made"
    return None


def _robust(spec: TaskSpec) -> Finding:
    rule, liars = spec.robust, spec.aggregation.liars
    if liars and (rule is None or rule.name == "median"):
        return f"aggregation.liars is set, but {spec.aggregator} has no such number", "remove liars"
    if rule is None:
        return None
    if rule.name != "median" and not liars:
        return f"{rule.name} must know how many updates may be false", "write liars = 1, or more"
    if rule.name == "multi-krum" and spec.scheme == "decentralized":
        why = "multi-krum compares whole updates, and in a decentralized round each peer sees slices of them"
        return why, 'write aggregator = "trimmed-mean" or "median", or scheme = "federated"'
    if spec.scheme == "federated" and spec.federated.max_age_seconds:
        why = f"federated.max_age_seconds makes versions of fewer updates than {rule.name} needs"
        return why, "remove max_age_seconds"
    needed = next(n for n in range(2, 1000) if _least_joined(spec, n) >= rule.least)
    if spec.scheme != "local" and spec.round.min_peers < needed:
        false = f" with {liars} false" if liars else ""
        why = f"{rule.name}{false} needs {rule.least} updates, and min_peers = {spec.round.min_peers} may give fewer"
        return why, f"write min_peers = {needed}" + (", or fewer liars" if liars > 1 else "")
    return None


def _least_joined(spec: TaskSpec, peers: int) -> int:
    """With how few updates a round of `peers` may end: more than two thirds; the node has all it waits for."""
    return peers if spec.scheme == "federated" else 2 * peers // 3 + 1


def _secrecy(spec: TaskSpec) -> Finding:
    if spec.scheme != "decentralized" or spec.aggregator != "secure" or spec.round.min_peers >= LEAST_SECURE:
        return None
    least = spec.round.min_peers
    why = f"aggregator secure needs {LEAST_SECURE} peers, min_peers is {least}: two would know each other's update"
    return why, 'write min_peers = 3, or aggregator = "mean" (peers then see slices of each other\'s updates)'


_CHECKS = (
    _federated,
    _fallback,
    _robust,
    _secrecy,
    _schema,
    _features,
    _scale,
    _columns,
    _model,
    _bounds,
    _privacy,
    _metrics,
)
