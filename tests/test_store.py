"""The state directory: what is saved comes back, and what was interrupted leaves what was there before."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load as load_bytes

from discod.errors import AlreadyRunning, BadData, Exit, LocalError, NewerState, UserError
from discod.store import (
    DatasetRow,
    MeshRow,
    SpentRow,
    Store,
    TaskRow,
    home_lock,
    load_tensors,
    open_store,
    save_tensors,
)
from discod.store.schema import MIGRATIONS
from discod.store.states import KEPT_CANDIDATES, KEPT_ROUNDS
from discod.store.tensors import tensor_pieces
from tests.states import MESH, OTHER, RID, ROOT, TASK, certify, header, opened, state_of, vectors


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path / "state") as store:
        yield store


def state_files(store: Store) -> set[str]:
    return {path.stem for path in (store.directory / "states").rglob("*.safetensors")}


def test_meshes_and_records_come_back(tmp_path: Path) -> None:
    mesh = MeshRow(MESH, ROOT, "oncology", ("signal.example.org:8765", "[::1]:9"), b"k" * 32, 1.5)
    with opened(tmp_path) as store:
        store.save_mesh(mesh)
        store.save_records(MESH, [b"one", b"two"])
        store.save_records(MESH, [b"two", b"three"])
        store.save_mesh(mesh)
    with opened(tmp_path) as store:
        assert store.meshes() == [mesh]
        assert sorted(store.records(MESH)) == [b"three", b"two"]
        store.remove_mesh(MESH)
        assert store.meshes() == []
        assert store.records(MESH) == []


def test_a_records_owner_must_be_known(store: Store) -> None:
    with pytest.raises(LocalError, match="FOREIGN KEY"):
        store.save_records(MESH, [b"one"])


def test_numbers_never_go_back(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        assert [store.next_number("addresses") for _ in range(3)] == [1, 2, 3]
        assert store.next_number("other", at_least=100) == 100
    with opened(tmp_path) as store:
        assert store.next_number("addresses") == 4
        assert store.next_number("addresses", at_least=50) == 50
        assert store.next_number("addresses", at_least=7) == 51


def test_the_place_of_a_root_key_is_private(store: Store) -> None:
    path = store.root_key_path(MESH)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.name == MESH.hex() + ".key"


def test_datasets_by_alias(store: Store) -> None:
    scans = DatasetRow("scans", "/srv/scans.npz", None, b"h" * 32, 2431, "x float32[8,8]", 1.0)
    digits = DatasetRow("digits", None, "digits:0-3", b"i" * 32, 479, "", 2.0)
    store.save_dataset(scans)
    store.save_dataset(digits)
    assert store.datasets() == [digits, scans]
    assert store.dataset("scans") == scans
    store.save_dataset(changed := DatasetRow("scans", "/srv/new.npz", None, b"j" * 32, 3, "", 3.0))
    assert store.dataset("scans") == changed
    store.remove_dataset("scans")
    assert store.dataset("scans") is None


def test_tasks_and_their_acceptance(store: Store) -> None:
    task = TaskRow(TASK, MESH, "digits", b"spec", False, None, "offered", 1.0)
    store.save_task(task)
    store.save_task(TaskRow(OTHER, None, "alone", b"spec", True, "scans", "accepted", 0.5))
    store.accept_task(TASK, "digits")
    store.set_task_state(OTHER, "stopped")
    assert [(t.name, t.accepted, t.data, t.state) for t in store.tasks()] == [
        ("alone", True, "scans", "stopped"),
        ("digits", True, "digits", "accepted"),
    ]
    assert store.task(RID) is None


def test_runs_and_figures(store: Store) -> None:
    first, second = store.start_run(TASK, "digits", 1.0), store.start_run(TASK, "digits", 2.0)
    assert second > first
    assert [store.add_figures(first, n, 10.0 + n, {"loss": 0.5 / n, "peers": ["a"]}) for n in (1, 2, 3)] == [1, 2, 3]
    store.add_figures(second, 9, 20.0, {})
    store.end_run(first, "finished", 30.0)
    assert [(run.state, run.ended) for run in store.runs()] == [("finished", 30.0), ("running", None)]
    assert [(f.step, f.round, f.figures["loss"]) for f in store.figures(first, since=1)] == [
        (2, 2, 0.25),
        (3, 3, 0.5 / 3),
    ]


def test_a_certified_state_comes_back(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        assert store.load_base(TASK) is None
        certify(store, 3)
        assert store.load_base(OTHER) is None
    with opened(tmp_path) as store:
        base = store.load_base(TASK)
        assert base is not None
        assert base.header == header(3) == store.base(TASK)
        assert base.info == {"round": "3"}
        for name, array in vectors(3).items():
            np.testing.assert_array_equal(base.vectors[name], array)
            assert base.vectors[name].dtype == array.dtype


def test_a_candidate_is_no_base(store: Store) -> None:
    certify(store, 1)
    store.save_candidate(TASK, state_of(2), vectors(2))
    assert store.base(TASK) == header(1)
    assert state_files(store) == {state_of(1).hex(), state_of(2).hex()}


def test_a_state_is_saved_before_it_is_certified(store: Store) -> None:
    with pytest.raises(LocalError, match="saved before"):
        store.certify(TASK, [header(1)])
    assert store.headers(TASK) == []


def test_a_certificate_clears_other_states_and_old_headers(store: Store) -> None:
    for number in range(1, KEPT_ROUNDS + 6):
        certify(store, number)
    assert state_files(store) == {state_of(KEPT_ROUNDS + 5).hex()}
    assert [h.round for h in store.headers(TASK)] == list(range(6, KEPT_ROUNDS + 6))


def test_candidates_are_few_and_never_the_one_just_saved(store: Store) -> None:
    certify(store, 1)
    for number in range(2, 12):
        store.save_candidate(TASK, state_of(number), vectors(number))
    assert len(state_files(store)) == KEPT_CANDIDATES + 2
    assert state_of(1).hex() in state_files(store)
    oldest = min((store.directory / "states").rglob("*.safetensors"), key=lambda p: p.stat().st_mtime_ns)
    again = next(n for n in range(2, 12) if (state_of(n).hex() in state_files(store)))
    os.utime(oldest.with_name(f"{state_of(again).hex()}.safetensors"), ns=(0, 0))
    store.save_candidate(TASK, state_of(again), vectors(again))
    assert state_of(again).hex() in state_files(store)


def test_a_branch_is_adopted_with_all_its_headers(store: Store) -> None:
    certify(store, 1)
    store.save_candidate(TASK, state_of(4), vectors(4))
    store.certify(TASK, [header(2), header(3), header(4)])
    assert store.base(TASK) == header(4)
    assert [h.round for h in store.headers(TASK)] == [1, 2, 3, 4]


def test_the_working_checkpoint_names_base_and_counter(store: Store) -> None:
    assert store.load_working(TASK) is None
    store.save_working(TASK, vectors(1), base=state_of(1), batches=40, info={"note": "x"})
    store.save_working(TASK, vectors(2), base=state_of(2), batches=48)
    working = store.load_working(TASK)
    assert working is not None
    assert (working.base, working.batches, working.info) == (state_of(2), 48, {})
    np.testing.assert_array_equal(working.vectors["parameters"], vectors(2)["parameters"])
    working.vectors["parameters"][0] = 1.0  # a copy of its own


def test_an_update_is_spent_once(tmp_path: Path) -> None:
    row = SpentRow(state_of(1), 40, RID, 0.25, None)
    with opened(tmp_path) as store:
        store.spend(TASK, row)
        store.spend(OTHER, row)
        store.spend(TASK, SpentRow(state_of(2), 48, ROOT, 0.0, None))
        store.note_consent(TASK, RID, b"u" * 32)
        with pytest.raises(LocalError, match="UNIQUE"):
            store.spend(TASK, row)
    with opened(tmp_path) as store:
        assert store.spent(TASK, state_of(1)) == [SpentRow(state_of(1), 40, RID, 0.25, b"u" * 32)]
        assert [r.batches for r in store.spent(TASK)] == [40, 48]
        assert store.spent(OTHER) == [row]


def test_commits_reach_the_disk(store: Store) -> None:
    assert store.database.row("PRAGMA synchronous") == (2,)
    assert store.database.row("PRAGMA journal_mode") == ("wal",)


def test_a_model_knows_where_it_comes_from(store: Store) -> None:
    tensors = {"w": np.ones((3, 2), np.float32), "b": np.zeros(2, np.float32)}
    first = store.save_model(TASK, "digits", 3, state_of(3), tensors, 5.0, {"certificate": "c0ffee"})
    second = store.save_model(TASK, "digits", 4, state_of(4), tensors, 6.0)
    assert store.models() == [first, second]
    loaded, info = store.load_model(first)
    assert info == {
        "certificate": "c0ffee",
        "task": TASK.hex(),
        "name": "digits",
        "round": "3",
        "state": state_of(3).hex(),
    }
    np.testing.assert_array_equal(loaded["w"], tensors["w"])
    store.remove_model(second.number)
    assert not second.path.exists()
    third = store.save_model(TASK, "digits", 5, state_of(5), tensors, 7.0)
    assert third.number > second.number


def test_a_missing_or_damaged_model_is_bad_data(store: Store) -> None:
    model = store.save_model(TASK, "digits", 3, state_of(3), vectors(3), 5.0)
    model.path.write_bytes(model.path.read_bytes()[:-1])
    with pytest.raises(BadData, match="damaged"):
        store.load_model(model)
    model.path.unlink()
    with pytest.raises(BadData, match="there is no"):
        store.load_model(model)


DTYPES = ["float64", "float32", "float16", "int64", "int32", "uint32", "uint16", "uint8", "bool"]


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3)),
        max_size=4,
    ),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)
def test_the_library_reads_what_we_write(shapes: dict[str, tuple[str, list[int]]], info: dict[str, str]) -> None:
    rng = np.random.default_rng(1)
    arrays = {name: (rng.random(shape) * 200).astype(dtype) for name, (dtype, shape) in shapes.items()}
    read = load_bytes(b"".join(tensor_pieces(arrays, info)))
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)


def test_transposed_arrays_are_saved_as_they_read(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    save_tensors(tmp_path / "x", {"a": array}, {"k": "v"})
    loaded, info = load_tensors(tmp_path / "x")
    np.testing.assert_array_equal(loaded["a"], array)
    assert info == {"k": "v"}


@pytest.mark.parametrize("dtype", ["complex64", ">f4", "U3"])
def test_what_cannot_be_saved_is_our_bug(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(LocalError):
        save_tensors(tmp_path / "x", {"a": np.zeros(2, dtype)}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_newer_state_is_exit_78_and_untouched(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.database.write(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    before = (tmp_path / "discod.sqlite").read_bytes()
    with pytest.raises(NewerState, match="newer discod") as caught:
        open_store(tmp_path)
    assert caught.value.exit == Exit.NEWER_STATE
    assert (tmp_path / "discod.sqlite").read_bytes() == before


def test_an_older_state_is_migrated_whole_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path) as store:
        store.save_dataset(row := DatasetRow("a", "/x", None, b"h" * 32, 1, "", 0.0))
    bad = ("CREATE TABLE fresh (x INTEGER) STRICT", "CREATE TABLE mesh (x INTEGER) STRICT")
    monkeypatch.setattr("discod.store.database.MIGRATIONS", (*MIGRATIONS, bad))
    with pytest.raises(LocalError, match="already exists"):
        open_store(tmp_path)
    good = ("CREATE TABLE fresh (x INTEGER) STRICT", "ALTER TABLE dataset ADD COLUMN more TEXT")
    monkeypatch.setattr("discod.store.database.MIGRATIONS", (*MIGRATIONS, good))
    with opened(tmp_path) as store:
        assert store.database.row("PRAGMA user_version") == (len(MIGRATIONS) + 1,)
        assert store.datasets() == [row]
        assert store.database.rows("SELECT * FROM fresh") == []


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "discod.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(BadData, match=r"discod\.sqlite is damaged"):
        open_store(tmp_path)


def test_threads_take_turns(store: Store) -> None:
    number = store.start_run(TASK, "digits", 0.0)

    def work() -> None:
        for _ in range(20):
            store.add_figures(number, 1, 0.0, {})

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [f.step for f in store.figures(number)] == list(range(1, 81))


def test_a_second_process_reads_and_writes_meanwhile(store: Store) -> None:
    with opened(store.directory) as second:
        second.save_dataset(DatasetRow("a", "/x", None, b"h" * 32, 1, "", 0.0))
    assert store.dataset("a") is not None


def test_opening_writes_nothing_so_that_a_full_disk_can_be_read(store: Store) -> None:
    log = store.directory / f"{store.database.path.name}-wal"
    before = log.read_bytes()
    with opened(store.directory):
        assert log.read_bytes() == before


def test_a_failed_block_changes_nothing(store: Store) -> None:
    def fail() -> None:
        with store.database.transaction() as connection:
            connection.execute("INSERT INTO number VALUES ('x', 5)")
            raise UserError("stop")

    with pytest.raises(UserError, match="stop"):
        fail()
    assert store.next_number("x") == 1


def test_a_home_has_one_holder(tmp_path: Path) -> None:
    with (
        home_lock(tmp_path),
        pytest.raises(AlreadyRunning, match=f"process {os.getpid()} holds") as caught,
        home_lock(tmp_path),
    ):
        pass
    assert caught.value.exit == Exit.ALREADY_RUNNING
    with home_lock(tmp_path):
        pass
