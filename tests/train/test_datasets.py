from pathlib import Path
from typing import Any

import numpy as np
import pytest

from discod.errors import BadData, PermissionProblem
from discod.train.datasets import describe, infer, load, normalised, sample, split
from discod.train.datasets.samples import held_out
from discod.train.task import DataSpec

SPEC = DataSpec(classes=3, shape=(2, 2), high=(4.0,))
TABLE = DataSpec(classes=3, shape=(2,), kind="csv")


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path / "data.npz", **arrays)
    return path / "data.npz"


def good_arrays(rows: int = 5) -> dict[str, Any]:
    return {"x": np.arange(rows * 4, dtype=np.float64).reshape(rows, 2, 2) / 7, "y": np.arange(rows) % 3}


def csv(path: Path, text: str) -> Path:
    (path / "data.csv").write_text(text)
    return path / "data.csv"


def refusal(source: Path | str, spec: DataSpec) -> BadData:
    with pytest.raises(BadData) as caught:
        load(source, spec)
    assert caught.value.hint
    return caught.value


# npz


def test_npz_is_read_in_the_types_of_the_task(tmp_path: Path) -> None:
    found = load(npz(tmp_path, **good_arrays()), SPEC)
    assert found.inputs.dtype == np.float32
    assert found.inputs.shape == (5, 2, 2)
    assert found.labels.dtype == np.int32
    assert found.labels.tolist() == [0, 1, 2, 0, 1]
    assert describe(found) == "5 rows · x float32[2,2] · y in 0..2"


def test_flat_rows_and_column_labels_take_the_shape_of_the_task(tmp_path: Path) -> None:
    arrays = good_arrays()
    whole = load(npz(tmp_path, **arrays), SPEC)
    flat = load(npz(tmp_path, x=arrays["x"].reshape(5, 4), y=arrays["y"].reshape(5, 1).astype(np.float32)), SPEC)
    assert flat.content_hash == whole.content_hash


def test_arrays_may_have_other_names(tmp_path: Path) -> None:
    spec = DataSpec(classes=3, shape=(4,), inputs=("images",), labels="digit")
    assert len(load(npz(tmp_path, images=np.ones((3, 4)), digit=np.zeros(3)), spec)) == 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": np.ones((5, 3))}, "row has shape [3], the task wants [2, 2]"),
        ({"x": np.ones((0, 2, 2)), "y": np.ones(0)}, "no rows"),
        ({"x": np.array(3.0)}, "no rows"),
        ({"y": np.zeros(4)}, "5 rows of inputs, but the labels have shape [4]"),
        ({"y": np.array([0, 1, 2, 3, 0])}, "label 3 in row 3"),
        ({"y": np.array([0, -1, 2, 1, 0])}, "label -1 in row 1"),
        ({"y": np.array([0, 1, 0.5, 1, 0])}, "label 0.5 in row 2"),
        ({"y": np.array([0, 1, np.nan, 1, 0])}, "label nan in row 2"),
        ({"x": np.full((5, 2, 2), 1e300)}, "too large"),
        ({"x": np.full((5, 2, 2), "a")}, "not numbers"),
        ({"y": np.array(["a", "b", "c", "d", "e"])}, "not numbers"),
    ],
)
def test_arrays_that_do_not_fit_the_task_are_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    assert says in refusal(npz(tmp_path, **(good_arrays() | change)), SPEC).message


def test_the_row_with_nan_is_named(tmp_path: Path) -> None:
    arrays = good_arrays()
    arrays["x"][3, 1, 0] = np.nan
    assert "row 3 " in refusal(npz(tmp_path, **arrays), SPEC).message


def test_uint8_tasks_refuse_what_is_no_pixel(tmp_path: Path) -> None:
    spec = DataSpec(classes=3, shape=(2, 2), dtype="uint8")
    assert load(npz(tmp_path, x=np.full((5, 2, 2), 255.0), y=np.zeros(5)), spec).inputs.dtype == np.uint8
    for wrong in (-1, 256, 0.5):
        assert "0..255" in refusal(npz(tmp_path, x=np.full((5, 2, 2), wrong), y=np.zeros(5)), spec).message


def test_missing_arrays_are_named_with_those_that_are_there(tmp_path: Path) -> None:
    error = refusal(npz(tmp_path, x=np.ones((2, 2, 2)), labels=np.zeros(2)), SPEC)
    assert "no array `y`; it has labels, x" in error.message


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    objects = np.array([{}, {}], dtype=object)
    path = tmp_path / "data.npz"
    np.savez(path, x=objects, y=np.zeros(2), allow_pickle=True)
    assert "Python objects" in refusal(path, SPEC).message


def test_a_single_array_is_not_an_archive(tmp_path: Path) -> None:
    with (tmp_path / "data.npz").open("wb") as file:
        np.save(file, np.ones(3))
    assert "single array" in refusal(tmp_path / "data.npz", SPEC).message


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = npz(tmp_path, **good_arrays())
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        refusal(path, SPEC)


def test_a_flipped_byte_is_refused_or_harmless(tmp_path: Path) -> None:
    path = npz(tmp_path, **good_arrays())
    whole, hashes = path.read_bytes(), {load(path, SPEC).content_hash}
    for place in range(0, len(whole), 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            hashes.add(load(path, SPEC).content_hash)
        except BadData:
            continue
    assert len(hashes) == 1  # the archive's checksums see every change of a value


def test_files_that_are_not_there_or_of_another_kind_are_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.npz", SPEC).message
    assert "neither .npz nor .csv" in refusal(tmp_path / "data.pkl", SPEC).message
    assert "the task wants npz" in refusal(csv(tmp_path, "a,b\n1,2\n"), SPEC).message
    (tmp_path / "folder.npz").mkdir()
    assert "cannot be read" in refusal(tmp_path / "folder.npz", SPEC).message


def test_a_file_of_another_user_is_a_permission_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PermissionProblem):
        load(tmp_path / "data.csv", TABLE)


# csv


def test_the_last_column_is_the_label_unless_named(tmp_path: Path) -> None:
    path = csv(tmp_path, "\ufeffage, fare ,class\r\n1,2.5,0\r\n\r\n3,-4e1,2\r\n")
    found = load(path, TABLE)
    assert found.inputs.tolist() == [[1, 2.5], [3, -40]]
    assert found.labels.tolist() == [0, 2]
    swapped = DataSpec(classes=4, shape=(2,), kind="csv", inputs=("class", "fare"), labels="age")
    assert load(path, swapped).inputs.tolist() == [[0, 2.5], [2, -40]]
    assert load(path, swapped).labels.tolist() == [1, 3]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("a,b,c\n", "no rows"),
        ("a,b,c\n1,2,0\n1,x,0\n", "row 2, column `b`: `x` is not a number"),
        ("a,b,c\n1,,0\n", "row 1, column `b`: `` is not a number"),
        ("a,b,c\n1,nan,0\n", "row 1, column `b`: `nan` is not a finite number"),
        ("a,b,c\n1,inf,0\n", "not a finite number"),
        ("a,b,c\n1,2,0\n1,2\n", "row 2 has 2 cells, the header has 3"),
        ("a,b,c\n1,2,7\n", "label 7.0 in row 0"),
        ("a,a,c\n1,2,0\n", "two columns named `a`"),
        ("a,b,d,c\n1,2,3,0\n", "row has shape [3], the task wants [2]"),
        ('a,b,c\n1,"2,0\n', "row 1 has 2 cells"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(tmp_path: Path, text: str, says: str) -> None:
    assert says in refusal(csv(tmp_path, text), TABLE).message


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    spec = DataSpec(classes=2, shape=(1,), kind="csv", inputs=("a",), labels="z")
    assert "no column `z`; it has a, b" in refusal(csv(tmp_path, "a,b\n1,0\n"), spec).message


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_bytes(b"a,b\n\xff\xfe,1\n")
    assert "not a text table" in refusal(tmp_path / "data.csv", TABLE).message


# what all data sets share


def test_the_content_hash_is_of_the_content_not_of_the_file(tmp_path: Path) -> None:
    first = load(npz(tmp_path, **good_arrays()), SPEC)
    (tmp_path / "elsewhere").mkdir()
    arrays = good_arrays()
    again = load(npz(tmp_path / "elsewhere", x=arrays["x"].astype(np.float32), y=arrays["y"].astype(np.uint8)), SPEC)
    arrays["y"][0] = 1
    other = load(npz(tmp_path, **arrays), SPEC)
    assert first.content_hash == again.content_hash != other.content_hash


def test_split_is_seeded_and_parts_are_disjoint() -> None:
    whole = sample("digits:2/3")
    training, validation = split(whole, 0.25, seed=5)
    assert validation is not None
    assert (len(training), len(validation)) == (359, 120)
    counts = np.bincount(training.labels, minlength=10) + np.bincount(validation.labels, minlength=10)
    assert (counts == np.bincount(whole.labels, minlength=10)).all()
    assert split(whole, 0.25, seed=5)[0].content_hash == training.content_hash
    assert split(whole, 0.25, seed=6)[0].content_hash != training.content_hash


def test_split_keeps_a_row_on_each_side(tmp_path: Path) -> None:
    two = load(npz(tmp_path, **good_arrays(2)), SPEC)
    assert [len(part) for part in split(two, 0.01, 0) if part] == [1, 1]
    assert [len(part) for part in split(two, 0.99, 0) if part] == [1, 1]
    assert split(two, 0.0, 0) == (two, None)
    one = load(npz(tmp_path, **good_arrays(1)), SPEC)
    assert split(one, 0.5, 0) == (one, None)


def test_normalised_maps_low_to_zero_and_high_to_one() -> None:
    spec = DataSpec(classes=2, shape=(3,), low=(0.0, -1.0, 10.0), high=(4.0, 1.0, 20.0))
    found = normalised(np.array([[0, -1, 10], [4, 1, 20], [1, 0, 25]], np.float64), spec)
    assert found.dtype == np.float32
    assert found.tolist() == [[0, 0, 0], [1, 1, 1], [0.25, 0.5, 1.5]]
    pixels = normalised(np.array([[[0, 8], [16, 4]]], np.uint8), DataSpec(classes=2, shape=(2, 2), high=(16.0,)))
    assert pixels.tolist() == [[[0, 0.5], [1, 0.25]]]


# samples


def test_three_parts_of_digits_are_the_label_split_of_the_demo() -> None:
    parts = [sample(f"digits:{i}/3") for i in (1, 2, 3)]
    assert [len(part) for part in parts] == [479, 479, 479]
    assert [sorted(set(part.labels.tolist())) for part in parts] == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]


def test_no_part_ever_holds_a_test_row() -> None:
    whole = sample("digits:train")
    training, test = held_out(np.concatenate([whole.labels, sample("digits:test").labels]))
    assert not set(training.tolist()) & set(test.tolist())
    assert (len(whole), len(sample("digits:test"))) == (1438, 359)
    seen = {row.tobytes() for row in sample("digits:test").inputs}
    for reference in ("digits:1/2", "digits:2/2", "digits:0-9", "digits"):
        assert not seen & {row.tobytes() for row in sample(reference).inputs}


def test_three_parts_of_tumor_have_alike_labels() -> None:
    parts = [sample(f"tumor:{i}/3") for i in (1, 2, 3)]
    assert [len(part) for part in parts] == [152, 152, 152]
    assert [int(part.labels.sum()) for part in parts] == [91, 104, 91]  # benign
    assert (len(sample("tumor:train")), len(sample("tumor:test"))) == (456, 113)
    rows = [row.tobytes() for part in parts for row in part.inputs]
    assert len(set(rows)) == 456
    assert not set(rows) & {row.tobytes() for row in sample("tumor:test").inputs}


def test_tumor_is_as_published() -> None:
    inputs = np.concatenate([sample("tumor:train").inputs, sample("tumor:test").inputs])
    assert inputs.dtype == np.float32
    assert inputs[:, 0].min() == np.float32(6.981)
    assert inputs[:, 23].max() == 4254.0
    labels = np.concatenate([sample("tumor:train").labels, sample("tumor:test").labels])
    assert np.bincount(labels).tolist() == [212, 357]


def test_a_label_range_takes_every_row_of_its_labels() -> None:
    assert sorted(set(sample("digits:0-3").labels.tolist())) == [0, 1, 2, 3]
    assert set(sample("digits:7").labels.tolist()) == {7}
    assert len(sample("digits:0-9")) == 1438


@pytest.mark.parametrize(
    "reference", ["digts", "digits:4/3", "digits:0/3", "digits:3-1", "digits:0-10", "digits:x", ""]
)
def test_unknown_samples_are_refused(reference: str) -> None:
    with pytest.raises(BadData) as caught:
        sample(reference)
    assert caught.value.hint


def test_a_sample_is_a_source_like_a_file() -> None:
    spec = infer("sample:digits:1/3")
    assert load("sample:digits:1/3", spec).content_hash == sample("digits:1/3").content_hash
    assert "the task wants [2, 2]" in refusal("sample:digits", SPEC).message


# inferring a schema


def test_pixels_are_inferred_as_uint8_with_their_usual_top(tmp_path: Path) -> None:
    path = npz(tmp_path, x=np.full((4, 3, 2), 200), y=np.array([0, 1, 4, 2]))
    assert infer(path) == DataSpec(classes=5, shape=(3, 2), dtype="uint8", high=(255.0,))


def test_bounds_are_rounded_outwards(tmp_path: Path) -> None:
    path = csv(tmp_path, "year,dose,same,sick\n1987,-0.031,3,0\n2004,0.042,3,1\n1990,0,3,0\n")
    spec = infer(path)
    assert (spec.low, spec.high) == ((1980.0, -0.04, 3.0), (2010.0, 0.05, 4.0))
    assert (spec.inputs, spec.labels, spec.classes, spec.shape) == (("year", "dose", "same"), "sick", 2, (3,))
    assert len(load(path, spec)) == 3


def test_one_pair_of_bounds_for_float_arrays(tmp_path: Path) -> None:
    path = npz(tmp_path, x=np.array([[0.2, -7.3], [3.1, 9.9]]), y=np.array([0, 1]))
    assert infer(path) == DataSpec(classes=2, shape=(2,), low=(-10.0,), high=(10.0,))


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": np.ones((2, 2)), "y": np.array([-1, 1])}, "not class numbers"),
        ({"x": np.ones((2, 2)), "y": np.array([0.5, 1])}, "not class numbers"),
        ({"x": np.ones((2, 2)), "y": np.array([np.nan, 1])}, "NaN"),
        ({"x": np.ones((0, 2)), "y": np.ones(0)}, "no inputs"),
        ({"x": np.ones((2, 2, 2, 2, 2)), "y": np.zeros(2)}, "4 sides"),
        ({"x": np.full((2, 2), "a"), "y": np.zeros(2)}, "not numbers"),
    ],
)
def test_files_no_task_can_be_made_from_are_refused(tmp_path: Path, arrays: dict[str, Any], says: str) -> None:
    with pytest.raises(BadData, match=says):
        infer(npz(tmp_path, **arrays))


def test_a_table_of_labels_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="one column"):
        infer(csv(tmp_path, "sick\n0\n1\n"))
