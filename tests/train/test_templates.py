import pytest

from discod.errors import BadData
from discod.privacy.plan import plan_noise
from discod.train.contradictions import contradiction
from discod.train.datasets import SAMPLES, sample, split
from discod.train.task import DataSpec, PrivacySpec
from discod.train.taskfile import dump_task, load_task
from discod.train.templates import BUILTIN, builtin_task, infer_task, private_form


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("name", BUILTIN)
def test_a_built_in_task_is_possible_fits_its_sample_and_survives_its_file(name: str, private: bool) -> None:
    task = builtin_task(name, private=private)
    assert contradiction(task) is None
    assert load_task(dump_task(task)).id == task.id
    assert SAMPLES[name].data == task.data
    assert task.is_private == private


@pytest.mark.parametrize(("name", "rows", "most"), [("digits", 479, 7.65), ("tumor", 152, 2.0)])
def test_a_third_of_a_sample_costs_what_the_private_form_says(name: str, rows: int, most: float) -> None:
    task = builtin_task(name, private=True)
    training, validation = split(sample(f"{name}:2/3"), task.training.validation_split, task.seed)
    assert (len(training), validation) == (rows, None)
    noise = plan_noise(task, len(training))
    assert noise is not None
    assert 0.99 * most < noise.epsilon <= most


def test_the_plain_form_of_a_built_in_task_has_not_changed() -> None:
    assert builtin_task("digits").privacy == PrivacySpec()
    task = builtin_task("digits")
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


def test_a_task_from_a_file_asks_for_privacy_and_says_so_in_its_file() -> None:
    data = DataSpec(classes=2, shape=(30,), kind="csv")
    task = infer_task("mine", data, rows=400)
    assert task.privacy == PrivacySpec("record", epsilon=3.0)
    [line] = [line for line in dump_task(task).splitlines() if line.startswith("epsilon")]
    assert line.startswith("epsilon = 3.0 ")
    assert "# most that may be learned of a row; smaller hides more" in line
    assert infer_task("mine", data, rows=400, private=False).privacy == PrivacySpec()


def test_another_task_of_a_built_in_name_keeps_its_own_training_when_it_gets_private() -> None:
    mine = infer_task("digits", DataSpec(classes=2, shape=(30,)), rows=400, private=False)
    assert private_form(mine).training == mine.training
    assert private_form(mine).privacy.epsilon == 3.0
