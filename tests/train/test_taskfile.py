import msgspec
import pytest

from discod.errors import BadData, Exit
from discod.train.task import MAX_TASK_BYTES, DataSpec, ModelSpec, TaskSpec, encode_task
from discod.train.taskfile import decode_task, dump_task, load_task

TASK = TaskSpec(
    name="digits",
    data=DataSpec(classes=10, shape=(8, 8), dtype="uint8", high=(16.0,)),
    model=ModelSpec("mlp", (64,)),
    title='Zo\u00eb\'s "digits" \\ \x7f\n',
    target=0.88,
)
TEXT = dump_task(TASK)


def refusal(text: str) -> BadData:
    with pytest.raises(BadData) as caught:
        load_task(text, "digits.toml")
    assert caught.value.exit == Exit.BAD_DATA
    assert caught.value.hint
    return caught.value


def test_a_dumped_task_loads_as_the_same_task() -> None:
    assert load_task(TEXT) == TASK
    assert load_task(TEXT).id == TASK.id


def test_a_short_file_is_enough() -> None:
    text = 'name = "t"\n[data]\nclasses = 3\nshape = [4]\n[model]\nname = "logreg"\n'
    assert load_task(text) == TaskSpec(name="t", data=DataSpec(classes=3, shape=(4,)), model=ModelSpec("logreg"))


def test_a_whole_number_may_stand_for_a_float() -> None:
    assert load_task(TEXT.replace("learning_rate = 0.1", "learning_rate = 2")).training.learning_rate == 2.0


@pytest.mark.parametrize(
    ("old", "new", "says", "hint"),
    [
        ("rounds = 40", "roundss = 40", "unknown field `roundss` in [round]", "did you mean `rounds`?"),
        ("seed = 0", "batch_size = 3", "unknown field `batch_size` in the top level", "[training]"),
        ("seed = 0", "zzz = 3", "unknown field `zzz`", "remove it"),
        ("[data]", "[dta]", "unknown field `dta`", "did you mean `data`?"),
        ("rounds = 40", "rounds = 0", "round.rounds = 0", "joint rounds"),
        ("min_peers = 3", "min_peers = 1", "round.min_peers = 1", "fewer peers"),
        ('"secure"', '"medium"', 'aggregation.aggregator = "medium"', "nobody sees an update"),
        ('"decentralized" ', '"central" ', 'scheme = "central"', "decentralized, federated"),
        ('"decentralized" ', '"federated" ', "there is no secure sum", 'aggregator = "mean"'),
        ('unit = "none"', 'unit = "record"', "nothing says how much noise", "epsilon = 3.0"),
        ('unit = "none"', 'unit = "row"', 'privacy.unit = "row"', "record: noise hides each row"),
        ('unit = "none"', 'unit = "peer"', 'unit is "peer", but nothing says how much', "epsilon = 3.0"),
        ("noise_multiplier = 0.0", "noise_multiplier = 2.0", "privacy.noise_multiplier is set", 'unit = "record"'),
        ("epsilon = 0.0", "epsilon = 100.5", "privacy.epsilon = 100.5", "learned of a row"),
        ("delta = 1e-05", "delta = 0.1", "privacy.delta = 0.1", "does not hold"),
        ("clip = 1.0", "clip = 0", "privacy.clip = 0", "one row can move"),
        ("hidden = [64]", "hidden = [64, 0]", "model.hidden[1] = 0", "hidden layers"),
        ("hidden = [64]", "hidden = []", "no hidden layer", "logreg"),
        ("classes = 10", "", "data.classes is missing", "labels are"),
        ('"mlp"', '"resnet"', 'model.name = "resnet"', "logreg, mlp, mlp-2nn or lenet"),
        ("learning_rate = 0.1", "learning_rate = nan", "learning_rate = NaN", "step size"),
        ("learning_rate = 0.1", 'learning_rate = "x"', "expected `float`, got `str`", "step size"),
        ("schema = 1", "schema = 9", "schema 9", "update discod"),
        ("target = 0.88", "target = 88", "target = 88", "0.9"),
        ("name = ", "name == ", "not valid TOML", "line"),
    ],
)
def test_a_wrong_file_is_refused_with_what_and_what_to_try(old: str, new: str, says: str, hint: str) -> None:
    error = refusal(TEXT.replace(old, new, 1))
    assert says in error.message
    assert "digits.toml" in error.message
    assert hint in error.hint


def test_a_published_task_decodes_to_the_same_id() -> None:
    assert decode_task(encode_task(TASK)) == TASK


def test_another_encoding_of_the_same_task_is_refused() -> None:
    loose = msgspec.msgpack.encode(msgspec.to_builtins(TASK))
    with pytest.raises(BadData, match="canonical"):
        decode_task(loose)


@pytest.mark.parametrize("encoded", [b"", b"\xc1", b"\x93\x01\x02\x03", b"\xa1\xff", b"\x00" * (MAX_TASK_BYTES + 1)])
def test_garbage_over_the_wire_is_refused(encoded: bytes) -> None:
    with pytest.raises(BadData):
        decode_task(encoded)
