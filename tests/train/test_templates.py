import pytest

from discod.errors import BadData
from discod.train.datasets import SAMPLES
from discod.train.task import DataSpec, contradiction
from discod.train.taskfile import dump_task, load_task
from discod.train.templates import BUILTIN, builtin_task, infer_task


@pytest.mark.parametrize("name", BUILTIN)
def test_a_built_in_task_is_possible_and_survives_its_file(name: str) -> None:
    task = builtin_task(name)
    assert contradiction(task) is None
    assert load_task(dump_task(task)).id == task.id


def test_digits_fits_its_sample_and_later_noise() -> None:
    task = builtin_task("digits")
    assert SAMPLES["digits"].data == task.data
    assert (task.target, task.min_peers, task.rounds, task.round_duration) == (0.88, 3, 40, 8)


def test_two_peers_make_another_task() -> None:
    assert builtin_task("digits", peers=2).min_peers == 2
    assert builtin_task("digits", peers=2).id != builtin_task("digits").id


@pytest.mark.parametrize("peers", [0, 1, 256])
def test_impossible_numbers_of_peers_are_refused(peers: int) -> None:
    with pytest.raises(BadData, match="peers is not possible"):
        builtin_task("digits", peers)


def test_the_nearest_built_in_name_is_suggested() -> None:
    with pytest.raises(BadData) as caught:
        builtin_task("digit")
    assert caught.value.hint == "did you mean digits?"


def test_few_rows_get_a_model_without_a_hidden_layer() -> None:
    data = DataSpec(classes=2, shape=(30,), kind="csv")
    assert infer_task("tumor", data, rows=400).model.name == "logreg"
    assert infer_task("tumor", data, rows=4000, peers=2).model.hidden == (64,)
    assert infer_task("tumor", data, rows=4000, peers=2).min_peers == 2
    with pytest.raises(BadData, match="no task"):
        infer_task("My Task", data, rows=400)
