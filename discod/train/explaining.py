"""A task in words, for whoever is asked to take part in it: what is trained, what is sent, who sees it. Pure."""

from __future__ import annotations

import math

from discod.privacy.peers import noise_to_signal, plan_peer_noise, sure_of
from discod.train.task import TaskSpec

LOUD = 10.0  # noise : signal above which little is learned


def explain(spec: TaskSpec, parameter_count: int, peers: int | None = None) -> list[str]:
    """Lines for `task validate`: what the task trains, for how long, and what a peer sends with `peers` in a round."""
    training, shape = spec.training, ",".join(map(str, spec.data.shape))
    samples = spec.steps * spec.batch_size
    lines = [
        f"data      {spec.data.kind} · x {spec.data.dtype}[{shape}] · y in 0..{spec.data.classes - 1}",
        f"model     {spec.model.name} · {_spaced(parameter_count)} parameters",
        f"training  {training.optimizer}, learning rate {training.learning_rate:g} · batches of {training.batch_size}",
        f"rounds    {spec.rounds} of {spec.round_duration} batches · {_spaced(samples)} samples a peer",
    ]
    if spec.scheme == "local":
        return [*lines, "sends     nothing: scheme local", *(_guarantee(spec) if spec.is_private else ())]
    if spec.scheme == "federated":
        least = spec.federated.quorum or spec.federated.capacity or spec.min_peers
        return [*lines, *_hosted(spec, parameter_count), *_guarantee(spec, parameter_count, least)]
    n = peers or spec.min_peers
    vectors = 3.0 if spec.aggregation.audit == "witness" else (2 * n - 1) / n
    upload_kb = vectors * 4 * parameter_count / 1000
    return [
        *lines,
        f"peers     at least {spec.min_peers} in a round, quorum {spec.quorum}",
        f"sends     updates, about {_spaced(math.ceil(upload_kb))} kB per peer and round with {n} peers",
        f"updates   {_UPDATES[spec.aggregator]}",
        *(_fallen_back(spec) if spec.has_fallback else ()),
        *_guarantee(spec, parameter_count, n),
    ]


def _hosted(spec: TaskSpec, parameter_count: int) -> list[str]:
    """Of a federated task: when a version is made, what is sent where, and who sees it."""
    rule, least, kilobytes = spec.federated, spec.min_peers, _spaced(math.ceil(4 * parameter_count / 1000))
    if rule.mode == "synchronous":
        wait = f"or {rule.deadline_seconds:g} s after the first update"
        when = f"synchronous: all who are there have sent an update, {wait}; at least {rule.quorum or least}"
    else:
        age = f", or the oldest waited {rule.max_age_seconds:g} s" if rule.max_age_seconds else ""
        late = (
            f"updates up to {rule.cutoff} versions behind count, for less" if rule.cutoff else "late ones are refused"
        )
        when = f"asynchronous: every {rule.capacity or least} updates{age}; {late}"
    hidden = "the noise below is all that hides a row from it" if spec.is_private else "nothing hides your rows from it"
    return [
        f"versions  {when}",
        f"sends     updates to one node, about {kilobytes} kB each; the node's key is {rule.node[:9]}...",
        f"updates   {spec.aggregator}: the node SEES EACH PEER'S UPDATE by itself, and whose it is; {hidden}",
        f"          other peers see the {spec.aggregator} of a version, and whose updates are in it",
    ]


def _fallen_back(spec: TaskSpec) -> list[str]:
    hidden = "the noise below is all that hides a row from it" if spec.is_private else "nothing hides your rows from it"
    return [
        f"fallback  after {spec.fallback.after_seconds:g} s without a quorum updates go to a node, until one is back;",
        f"          the node SEES EACH PEER'S UPDATE by itself; {hidden}",
        f"          the node's key is {spec.fallback.node[:9]}...; it alone then decides which versions are signed",
    ]


_UPDATES = {
    "secure": "secure: masked; only the sum over at least 2/3 of a round's peers is opened, once",
    "mean": "mean: each peer sees slices of every other peer's update",
    "median": "median: each peer sees slices of every other peer's update; unweighted",
    "trimmed-mean": "trimmed-mean: each peer sees slices of every other peer's update; unweighted",
}


def _guarantee(spec: TaskSpec, parameter_count: int = 0, peers: int = 1) -> list[str]:
    rule = spec.privacy
    if not spec.is_private:
        return ["privacy   none: no noise is added; raw rows are never sent", *_metrics(spec)]
    if rule.unit == "peer":
        return _peer_guarantee(spec, parameter_count, peers)
    delta = f"delta {rule.delta:g}".replace("e-0", "e-")
    whom = "for each record of a peer, against everybody"
    steps = f"{_spaced(spec.steps)} steps"
    if rule.epsilon:
        promise = f"epsilon <= {rule.epsilon:g} at {delta} {whom}"
        noise = f"in each of {steps}, as much as that needs with a peer's number of rows"
    else:
        promise = f"an epsilon at {delta} {whom}; fewer rows or more steps make it larger"
        noise = f"{rule.noise_multiplier:g} x the clip in each of {steps}"
    return [f"privacy   record-level: {promise}", f"noise     {noise}; gradients of a row clipped to {rule.clip:g}"]


def _metrics(spec: TaskSpec) -> list[str]:
    if spec.privacy.metrics == "none":
        return []
    seen = (
        "as sums over a round's peers" if spec.aggregator == "secure" else "by a peer of the round, their sums by all"
    )
    return [f"metrics   joint: how many validation rows you have, how many are right and their loss are seen {seen}"]


def _peer_guarantee(spec: TaskSpec, parameter_count: int, peers: int) -> list[str]:
    noise = plan_peer_noise(spec)
    assert noise is not None, "a task of unit peer has its noise"
    together = spec.scheme == "decentralized" and spec.aggregator == "secure"
    ratio = noise_to_signal(noise.z, parameter_count, peers, sure_of(peers) if together else 1)
    delta = f"delta {noise.delta:g}".replace("e-0", "e-")
    bound = f"epsilon <= {noise.epsilon:.3g} at {delta} for a whole peer, in {noise.releases} rounds"
    place = "of the sum of a round" if together else "of each update that leaves"
    lines = [
        f"privacy   peer-level: {bound}; a single row may cost as much as half the noise does",
        f"noise     {noise.z:g} x the clip {place}; an update is clipped to norm {noise.clip:g}",
        f"ratio     noise is {ratio:.3g} times the longest signal, with {peers} peers",
    ]
    if ratio > LOUD:
        lines.append(f"warning   above {LOUD:g} little is learned: more peers, a smaller model, or unit record")
    return lines


def _spaced(number: int) -> str:
    return f"{number:,}".replace(",", " ")
