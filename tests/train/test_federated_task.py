"""Tasks of scheme federated: what they may say, what their id holds, what they tell who is asked to take part."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from discod.errors import Refused
from discod.identity import Identity, show_id
from discod.train.contradictions import contradiction
from discod.train.explaining import explain
from discod.train.task import AggregationSpec, PrivacySpec, RoundSpec, TaskSpec, encode_task
from discod.train.taskfile import decode_task, dump_task, load_task
from discod.train.templates import builtin_task
from discod.wire.federated import FederatedSpec, hosted_task

KEY = show_id(Identity.from_seed(b"n" * 32).peer_id)


def hosted(task: TaskSpec | None = None, **rule: Any) -> TaskSpec:
    spec = task or builtin_task("digits", 2)
    federated = FederatedSpec(**{"node": KEY} | rule)
    return msgspec.structs.replace(spec, scheme="federated", aggregation=AggregationSpec("mean"), federated=federated)


def test_file_and_canonical_form_come_back_as_the_same_task() -> None:
    task = hosted(mode="synchronous", quorum=4, deadline_seconds=12.5)
    assert contradiction(task) is None
    assert load_task(dump_task(task)) == decode_task(encode_task(task)) == task
    read = hosted_task(encode_task(task))
    assert (read.scheme, read.quorum, read.federated) == ("federated", 4, task.federated)


def test_defaults_are_left_out_and_every_rule_is_part_of_the_id() -> None:
    assert b"deadline" not in encode_task(hosted())
    assert hosted(deadline_seconds=float("60")).id == hosted().id
    rules: list[dict[str, Any]] = [{"cutoff": 2}, {"capacity": 3}, {"max_age_seconds": 9.0}, {"mode": "synchronous"}]
    assert len({hosted().id, *(hosted(**rule).id for rule in rules)}) == 5


def test_file_of_another_scheme_has_no_federated_section() -> None:
    assert "[federated]" not in dump_task(builtin_task("digits"))


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"node": ""}, "not the key of a node"),
        ({"node": KEY[:-1] + ("0" if KEY[-1] != "0" else "1")}, "not the key of a node"),
        ({"capacity": 1}, "capacity = 1, but min_peers = 2"),
        ({"mode": "synchronous", "quorum": 1}, "quorum = 1, but min_peers = 2"),
        ({"mode": "synchronous", "cutoff": 1}, "belong to the asynchronous mode"),
    ],
)
def test_rules_that_contradict_each_other_are_refused(rule: dict[str, Any], says: str) -> None:
    found = contradiction(hosted(**rule))
    assert found is not None
    assert says in found[0]
    assert found[1]


def test_secrecy_from_the_node_cannot_be_promised() -> None:
    for sums in (AggregationSpec("secure"), AggregationSpec("mean", "witness")):
        task = msgspec.structs.replace(hosted(), aggregation=sums, round=RoundSpec(min_peers=3))
        assert "the node that sums sees every update" in str(contradiction(task))
    plain = msgspec.structs.replace(builtin_task("digits"), federated=FederatedSpec(node=KEY))
    assert "the scheme is another" in str(contradiction(plain))


def summed(scheme: str, min_peers: int, *sums: Any, **rule: Any) -> TaskSpec:
    task = msgspec.structs.replace(builtin_task("digits"), round=RoundSpec(min_peers=min_peers))
    if scheme == "federated":
        task = hosted(task, **rule)
    return msgspec.structs.replace(task, aggregation=AggregationSpec(sums[0], liars=sums[1]))


@pytest.mark.parametrize(
    ("task", "says", "hint"),
    [
        (summed("decentralized", 3, "mean", 1), "mean has no such number", "remove liars"),
        (summed("decentralized", 3, "secure", 1), "secure has no such number", "remove liars"),
        (summed("decentralized", 3, "median", 1), "median has no such number", "remove liars"),
        (summed("decentralized", 3, "trimmed-mean", 0), "how many updates may be false", "liars = 1"),
        (summed("decentralized", 9, "multi-krum", 1), "compares whole updates", 'scheme = "federated"'),
        (summed("decentralized", 2, "median", 0), "median needs 3 updates", "write min_peers = 3"),
        (summed("decentralized", 5, "trimmed-mean", 2), "with 2 false needs 5 updates", "write min_peers = 6"),
        (summed("federated", 6, "multi-krum", 2), "with 2 false needs 7 updates", "write min_peers = 7"),
        (summed("federated", 3, "median", 0, max_age_seconds=9.0), "makes versions of fewer", "remove max_age"),
    ],
)
def test_a_robust_rule_that_could_not_hold_is_refused(task: TaskSpec, says: str, hint: str) -> None:
    found = contradiction(task)
    assert found is not None
    assert says in found[0]
    assert hint in found[1]


@pytest.mark.parametrize(
    "task",
    [
        summed("decentralized", 3, "median", 0),
        summed("decentralized", 6, "trimmed-mean", 2),
        summed("federated", 5, "trimmed-mean", 2),
        summed("federated", 7, "multi-krum", 2),
    ],
)
def test_a_robust_task_is_the_same_to_the_node_and_unweighted(task: TaskSpec) -> None:
    assert contradiction(task) is None
    assert decode_task(encode_task(task)) == load_task(dump_task(task)) == task
    assert hosted_task(encode_task(task)).robust == task.robust
    assert task.weighting == "uniform"
    assert f"updates   {task.aggregator}: " in "\n".join(explain(task, 4810))


def test_a_node_hosts_no_rule_that_could_not_hold() -> None:
    with pytest.raises(Refused, match="multi-krum of 6 updates"):
        hosted_task(encode_task(summed("federated", 6, "multi-krum", 2)))


def test_validate_says_plainly_that_the_node_sees_each_update() -> None:
    lines = "\n".join(explain(hosted(cutoff=2), 4810))
    assert "the node SEES EACH PEER'S UPDATE by itself, and whose it is; nothing hides your rows from it" in lines
    assert "every 2 updates; updates up to 2 versions behind count, for less" in lines
    assert "about 20 kB each" in lines
    assert KEY[:9] in lines
    private = msgspec.structs.replace(hosted(mode="synchronous"), privacy=PrivacySpec("record", epsilon=2.0))
    lines = "\n".join(explain(private, 4810))
    assert "the noise below is all that hides a row from it" in lines
    assert "or 60 s after the first update; at least 2" in lines
    assert "epsilon <= 2" in lines
