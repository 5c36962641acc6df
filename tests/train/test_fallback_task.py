"""Tasks with a fallback: off by default, never in the clear where the task promised a secure sum, told in words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from discod.identity import Identity, show_id
from discod.train.contradictions import contradiction
from discod.train.explaining import explain
from discod.train.task import AggregationSpec, PrivacySpec, TaskSpec, encode_task
from discod.train.taskfile import decode_task, dump_task, load_task
from discod.train.templates import builtin_task
from discod.wire.federated import FallbackSpec, hosted_task

KEY = show_id(Identity.from_seed(b"n" * 32).peer_id)
RECORD = PrivacySpec("record", epsilon=2.0)


def falling(**changes: Any) -> TaskSpec:
    rule = FallbackSpec(**{"node": KEY, "after_seconds": 45.0} | changes.pop("rule", {}))
    mean = AggregationSpec("mean")
    return msgspec.structs.replace(builtin_task("digits"), **{"aggregation": mean, "fallback": rule} | changes)


def test_it_is_off_and_no_part_of_the_id_unless_it_is_asked_for() -> None:
    task = builtin_task("digits")
    assert not task.has_fallback
    assert b"fallback" not in encode_task(task)
    assert "[fallback]" not in dump_task(task)
    assert not hosted_task(encode_task(task)).is_fallback


def test_file_and_canonical_form_come_back_as_the_same_task() -> None:
    task = falling(rule={"mode": "synchronous", "quorum": 4})
    assert contradiction(task) is None
    assert load_task(dump_task(task)) == decode_task(encode_task(task)) == task
    read = hosted_task(encode_task(task))
    assert (read.is_fallback, read.rule, read.quorum) == (True, task.fallback, 4)


def test_secure_task_falls_back_with_record_level_noise_only() -> None:
    secure = AggregationSpec("secure")
    found = contradiction(falling(aggregation=secure))
    assert found is not None
    assert "whoever withholds introductions could force it" in found[0]
    assert contradiction(falling(aggregation=secure, privacy=RECORD)) is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rule": {"node": ""}}, "names no node"),
        ({"rule": {"node": "x"}}, "fallback.node is not the key of a node"),
        ({"rule": {"capacity": 2}}, "fallback.capacity = 2, but min_peers = 3"),
        ({"rule": {"mode": "synchronous", "cutoff": 1}}, "belong to the asynchronous mode"),
        ({"scheme": "local"}, "only a decentralized task can fall back"),
        ({"privacy": PrivacySpec("peer", noise_multiplier=5.0)}, "privacy.unit"),
        ({"privacy": PrivacySpec(metrics="joint")}, "a node that the task falls back to sums updates only"),
    ],
)
def test_what_cannot_be_is_said(changes: dict[str, Any], says: str) -> None:
    found = contradiction(falling(**changes))
    assert found is not None
    assert says in found[0]


def test_consent_says_who_sees_what_once_it_falls_back() -> None:
    text = "\n".join(explain(falling(), 100))
    assert "after 45 s without a quorum updates go to a node" in text
    assert "SEES EACH PEER'S UPDATE by itself; nothing hides your rows from it" in text
    assert "the noise below is all that hides" in "\n".join(explain(falling(privacy=RECORD), 100))
    assert "fallback" not in "\n".join(explain(builtin_task("digits"), 100))
