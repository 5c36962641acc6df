import hashlib

import msgspec
import pytest

from discod.train.task import (
    AggregationSpec,
    DataSpec,
    ModelSpec,
    RoundSpec,
    TaskSpec,
    TrainingSpec,
    contradiction,
    encode_task,
    explain,
)

DATA = DataSpec(classes=10, shape=(8, 8), dtype="uint8", high=(16.0,))
TASK = TaskSpec(name="digits", data=DATA, model=ModelSpec("mlp", (64,)))


def test_id_is_the_hash_of_the_map_of_non_defaults_with_sorted_keys() -> None:
    by_hand = {
        "data": {"classes": 10, "dtype": "uint8", "high": [16.0], "shape": [8, 8]},
        "model": {"hidden": [64], "name": "mlp"},
        "name": "digits",
    }
    assert encode_task(TASK) == msgspec.msgpack.encode(by_hand)
    assert TASK.id == hashlib.sha256(b"discod/task/1" + msgspec.msgpack.encode(by_hand)).digest()


def test_id_of_a_published_task_never_changes() -> None:
    assert TASK.id.hex() == "cf891b6fa25aa4f2670a7996e8e3d3ba754174782b4045396cfed70a888793e0"


def test_a_default_written_out_is_still_a_default() -> None:
    written = TaskSpec(name="digits", data=DATA, model=ModelSpec("mlp", (64,)), round=RoundSpec(rounds=int("40")))
    written = msgspec.structs.replace(written, training=TrainingSpec(learning_rate=float("0.1")))
    assert written.id == TASK.id


def test_every_field_is_part_of_the_id() -> None:
    others = [
        msgspec.structs.replace(TASK, seed=7),
        msgspec.structs.replace(TASK, title="t"),
        msgspec.structs.replace(TASK, target=0.9),
        msgspec.structs.replace(TASK, aggregation=AggregationSpec(weight_cap=9)),
        msgspec.structs.replace(TASK, round=RoundSpec(min_peers=2)),
    ]
    assert len({task.id for task in [TASK, *others]}) == 1 + len(others)


def test_weight_cap_is_a_full_round_of_batches_unless_set() -> None:
    task = msgspec.structs.replace(TASK, round=RoundSpec(round_duration=5), training=TrainingSpec(batch_size=7))
    assert task.weight_cap == 35
    assert msgspec.structs.replace(task, aggregation=AggregationSpec(weight_cap=11)).weight_cap == 11


def test_alone_one_peer_is_enough() -> None:
    assert TASK.min_peers == 3
    assert msgspec.structs.replace(TASK, scheme="local").min_peers == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data": DataSpec(classes=10, shape=(8, 8), low=(1.0,), high=(1.0,))}, "not below"),
        ({"data": DataSpec(classes=10, shape=(8, 8), low=(0.0, 1.0))}, "2 values for 64 features"),
        ({"data": DataSpec(classes=10, shape=(8, 8), high=(float("inf"),))}, "finite"),
        ({"data": DataSpec(classes=10, shape=(60000, 60000))}, "numbers a row"),
        ({"data": DataSpec(classes=2, shape=(2, 2), kind="csv")}, "flat list"),
        ({"data": DataSpec(classes=2, shape=(3,), kind="csv", inputs=("a", "b"))}, "names 2 columns"),
        ({"data": DataSpec(classes=2, shape=(2,), kind="csv", inputs=("a", "b"), labels="b")}, "label as an input"),
        ({"data": DataSpec(classes=2, shape=(2,), inputs=("a", "b"))}, "reads one"),
        ({"model": ModelSpec("mlp")}, "no hidden layer"),
        ({"model": ModelSpec("logreg", (3,))}, "fixed"),
        ({"model": ModelSpec("lenet")}, "16x16"),
        ({"aggregation": AggregationSpec(bound=3.0)}, "power of two"),
        ({"target": 0.0}, "target"),
        ({"target": 1.5}, "target"),
        ({"schema": 2}, "schema"),
    ],
)
def test_impossible_combinations_are_named(change: dict[str, object], says: str) -> None:
    found = contradiction(msgspec.structs.replace(TASK, **change))
    assert found is not None
    assert says in found[0]
    assert found[1]


def test_possible_tasks_have_no_contradiction() -> None:
    assert contradiction(TASK) is None
    assert contradiction(msgspec.structs.replace(TASK, target=1.0, aggregation=AggregationSpec(bound=0.25))) is None
    columns = DataSpec(classes=2, shape=(2,), kind="csv", inputs=("a", "b"), labels="c", low=(0.0, -1.0), high=(5.0,))
    assert contradiction(TaskSpec(name="t", data=columns, model=ModelSpec("logreg"))) is None


def test_explain_says_what_a_peer_sends() -> None:
    lines = "\n".join(explain(TASK, 4810, peers=4))
    assert "4 810 parameters" in lines
    assert "10 240 samples" in lines
    assert "about 34 kB per peer and round with 4 peers" in lines  # 7/4 of 19.24 kB
    assert "nothing" in "\n".join(explain(msgspec.structs.replace(TASK, scheme="local"), 4810))
