import hashlib

import msgspec
import pytest

from discod.train import contradictions
from discod.train.contradictions import contradiction
from discod.train.explaining import explain
from discod.train.models import MODELS
from discod.train.task import (
    AggregationSpec,
    DataSpec,
    ModelSpec,
    PrivacySpec,
    RoundSpec,
    TaskSpec,
    TrainingSpec,
    encode_task,
)

DATA = DataSpec(classes=10, shape=(8, 8), dtype="uint8", high=(16.0,))
TASK = TaskSpec(name="digits", data=DATA, model=ModelSpec("mlp", (64,)))
PRIVATE = msgspec.structs.replace(TASK, privacy=PrivacySpec("record", epsilon=2.5))


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
        PRIVATE,
        msgspec.structs.replace(TASK, privacy=PrivacySpec("record", noise_multiplier=2.5)),
        msgspec.structs.replace(TASK, privacy=PrivacySpec("record", epsilon=2.5, delta=1e-6)),
        msgspec.structs.replace(TASK, privacy=PrivacySpec("record", epsilon=2.5, clip=0.5)),
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
        ({"privacy": PrivacySpec(epsilon=3.0)}, "privacy.epsilon is set"),
        ({"privacy": PrivacySpec(noise_multiplier=3.0)}, "privacy.noise_multiplier is set"),
        ({"privacy": PrivacySpec("record", epsilon=3.0, noise_multiplier=1.5)}, "both set"),
        ({"privacy": PrivacySpec("record", clip=2.0)}, "how much noise"),
        ({"privacy": PrivacySpec("record", epsilon=3.0, metrics="joint")}, "unit record has no noise for counts"),
        (
            {"privacy": PrivacySpec(metrics="joint"), "aggregation": AggregationSpec("median")},
            "median compares words and does not sum them",
        ),
        ({"privacy": PrivacySpec(metrics="joint"), "scheme": "local"}, "in a local task there is no sum"),
        (
            {"privacy": PrivacySpec(metrics="joint"), "training": TrainingSpec(validation_split=0.0)},
            "leaves no row to measure on",
        ),
    ],
)
def test_impossible_combinations_are_named(change: dict[str, object], says: str) -> None:
    found = contradiction(msgspec.structs.replace(TASK, **change))
    assert found is not None
    assert says in found[0]
    assert found[1]


def test_a_model_that_cannot_tell_the_gradient_of_each_row_is_refused_with_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert contradiction(PRIVATE) is None
    monkeypatch.setattr(contradictions, "PER_EXAMPLE", frozenset(("logreg",)))
    found = contradiction(PRIVATE)
    assert found is not None
    assert "mlp cannot tell the gradient of each row" in found[0]
    assert found[1] == "use logreg"
    assert contradiction(TASK) is None


def test_every_model_of_the_table_can_be_trained_with_noise() -> None:
    assert MODELS.keys() == contradictions.PER_EXAMPLE


def test_with_noise_all_peers_weigh_alike() -> None:
    assert (TASK.weighting, TASK.is_private) == ("samples", False)
    assert (PRIVATE.weighting, PRIVATE.is_private) == ("uniform", True)


def test_possible_tasks_have_no_contradiction() -> None:
    assert contradiction(TASK) is None
    assert contradiction(PRIVATE) is None
    assert contradiction(msgspec.structs.replace(TASK, target=1.0, aggregation=AggregationSpec(bound=0.25))) is None
    columns = DataSpec(classes=2, shape=(2,), kind="csv", inputs=("a", "b"), labels="c", low=(0.0, -1.0), high=(5.0,))
    assert contradiction(TaskSpec(name="t", data=columns, model=ModelSpec("logreg"))) is None


def test_explain_says_what_a_peer_sends() -> None:
    lines = "\n".join(explain(TASK, 4810, peers=4))
    assert "4 810 parameters" in lines
    assert "10 240 samples" in lines
    assert "about 34 kB per peer and round with 4 peers" in lines  # 7/4 of 19.24 kB
    assert "nothing" in "\n".join(explain(msgspec.structs.replace(TASK, scheme="local"), 4810))


def test_explain_states_the_guarantee_in_words() -> None:
    lines = "\n".join(explain(PRIVATE, 4810))
    assert "privacy   record-level: epsilon <= 2.5 at delta 1e-5 for each record of a peer, against everybody" in lines
    assert "noise     in each of 320 steps, as much as that needs" in lines
    assert "no noise" not in lines
    alone = msgspec.structs.replace(
        PRIVATE, scheme="local", privacy=PrivacySpec("record", noise_multiplier=3.25, clip=0.5)
    )
    assert "noise     3.25 x the clip in each of 320 steps; gradients of a row clipped to 0.5" in explain(alone, 4810)
    assert "none: no noise is added" in "\n".join(explain(TASK, 4810))
    assert "metrics" not in "\n".join(explain(TASK, 4810))
    joint = msgspec.structs.replace(TASK, privacy=PrivacySpec(metrics="joint"))
    assert "their loss are seen as sums over a round's peers" in "\n".join(explain(joint, 4810))
