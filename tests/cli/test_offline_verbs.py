"""Verbs that need no daemon: init, data, task files, models, configuration; and bad input to each."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import pytest

from discod.cli import saved
from discod.store import TaskRow, open_store
from discod.train.layers import layout, parameter_specs
from discod.train.task import encode_task
from discod.train.templates import DIGITS
from discod.train.vector import initial_parameters
from tests.cli.conftest import Type


def test_init_makes_a_private_identity_once(discod: Type, home: Path) -> None:
    first = discod("init", "--name", "clinic-a", "--json").data
    assert (first["name"], first["made"]) == ("clinic-a", True)
    assert stat.S_IMODE((home / "state" / "identity.key").stat().st_mode) == 0o600
    again = discod("init", "--json").data
    assert (again["peer_id"], again["made"]) == (first["peer_id"], False)


def test_init_refuses_another_name_and_impossible_ones(discod: Type) -> None:
    assert discod("init", "--name", " bad\n").code == 2
    discod("init", "--name", "a")
    assert discod("init", "--name", "a").code == 0
    shown = discod("init", "--name", "b")
    assert shown.code == 2
    assert "edit" in shown.err


def test_identity_open_to_others_is_refused(discod: Type, home: Path) -> None:
    discod("init", "--name", "a")
    (home / "state" / "identity.key").chmod(0o644)
    shown = discod("up")
    assert shown.code == 77
    assert "chmod" in shown.err


def test_damaged_identity_says_what_to_do(discod: Type, home: Path) -> None:
    discod("init", "--name", "a")
    (home / "state" / "identity.key").write_text("nonsense")
    shown = discod("up")
    assert shown.code == 10
    assert "try: put back your copy" in shown.err


def test_unknown_setting_names_the_nearest(discod: Type, home: Path) -> None:
    home.mkdir()
    (home / "config.toml").write_text("[network]\nlisten_on = '[::]:1'\n")
    shown = discod("config", "validate")
    assert shown.code == 64
    assert "network.listen" in shown.err


def test_config_and_paths(discod: Type, home: Path) -> None:
    assert discod("config", "path").out == f"{home / 'config.toml'}\n"
    assert 'network.relay = "auto"' in discod("config", "show").out
    assert discod("paths", "--json").data["socket"] == str(home / "control.sock")


def test_data_is_named_listed_shown_and_forgotten(discod: Type, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    path = tmp_path / "scans.npz"
    np.savez(path, x=rng.integers(0, 17, (30, 8, 8)).astype(np.uint8), y=np.arange(30) % 10)
    assert "30 rows" in discod("data", "add", "scans", str(path)).out
    assert discod("data", "add", "part", "--sample", "digits:1/3", "--json").data["rows"] == 479
    assert [one["alias"] for one in discod("data", "list", "--json").data] == ["part", "scans"]
    assert discod("data", "show", "scans", "--json").data["changed"] is False
    np.savez(path, x=rng.integers(0, 17, (31, 8, 8)).astype(np.uint8), y=np.arange(31) % 10)
    assert discod("data", "show", "scans", "--json").data["changed"] is True
    assert discod("data", "rm", "scans").code == 0
    assert path.exists()
    shown = discod("data", "show", "prat")
    assert shown.code == 65
    assert "did you mean 'part'?" in shown.err


def test_alias_in_file_and_state_is_bad_config(discod: Type, home: Path, tmp_path: Path) -> None:
    discod("init", "--name", "a")
    discod("data", "add", "scans", "--sample", "digits:1/3")
    with (home / "config.toml").open("a") as file:
        file.write('\n[[dataset]]\nalias = "scans"\npath = "x.npz"\n')
    assert discod("data", "list").code == 64


def test_alias_is_not_silently_given_to_other_data(discod: Type) -> None:
    discod("data", "add", "scans", "--sample", "digits:1/3")
    assert discod("data", "add", "scans", "--sample", "digits:2/3").code == 2
    assert discod("data", "add", "scans", "--sample", "digits:2/3", "--force").code == 0
    assert discod("data", "add", "Scans", "--sample", "digits:2/3").code == 2
    assert discod("data", "add", "scans").code == 2


@pytest.mark.parametrize(
    ("content", "said"), [(None, "does not exist"), (b"PK\x03\x04cut", "whole npz"), ("nan", "NaN"), ("rows", "labels")]
)
def test_bad_data_file_is_65_and_says_what(
    content: bytes | str | None, said: str, discod: Type, tmp_path: Path
) -> None:
    path = tmp_path / "d.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "nan":
        np.savez(path, x=np.full((3, 2), np.nan), y=np.arange(3))
    elif content == "rows":
        np.savez(path, x=np.zeros((3, 2)), y=np.arange(4))
    shown = discod("data", "add", "d", str(path))
    assert shown.code == 65
    assert said in shown.err
    assert "\ntry: " in shown.err


def test_task_is_written_validated_and_kept(discod: Type) -> None:
    assert discod("task", "new", "digits", "--peers", "4").code == 0
    assert "min_peers = 4" in Path("digits.toml").read_text()
    assert discod("task", "new", "digits").code == 2
    assert discod("task", "new", "digits", "--force").code == 0
    assert "4 810 parameters" in discod("task", "validate", "digits.toml").out
    assert discod("task", "validate", "digits", "--json").data["name"] == "digits"


def test_task_fits_a_data_file(discod: Type, tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("a,b,label\n1,2.5,0\n3,4.5,1\n5,6.5,2\n")
    assert discod("task", "new", "mine", "--from", str(path)).code == 0
    assert 'kind = "csv"' in Path("mine.toml").read_text()


@pytest.mark.parametrize(
    ("line", "said"), [("ronds = 3", "unknown field"), ("seed = -1", "seed"), ("target = 2.0", "target"), ("=", "TOML")]
)
def test_bad_task_file_is_65_and_says_where(line: str, said: str, discod: Type) -> None:
    discod("task", "new", "digits")
    text = Path("digits.toml").read_text()
    Path("bad.toml").write_text(f"{line}\n" + "\n".join(x for x in text.splitlines() if x[:4] != line[:4]))
    shown = discod("task", "validate", "bad.toml")
    assert shown.code == 65
    assert said in shown.err


def save_a_model(home: Path) -> None:
    """The first parameters of the digits task as a model of round 40; no training is needed for this."""
    (home / "state").mkdir(parents=True, mode=0o700, exist_ok=True)
    store = open_store(home / "state")
    store.save_task(TaskRow(DIGITS.id, None, "digits", encode_task(DIGITS), True, "scans", "finished", 1.0))
    tensors = layout(DIGITS).views(initial_parameters(parameter_specs(DIGITS), 1))
    store.save_model(DIGITS.id, "digits", 40, bytes(32), tensors, 2.0, {"accuracy": "0.5"})
    store.close()


def test_model_is_listed_and_exported_with_its_task(discod: Type, home: Path) -> None:
    assert discod("model", "list", "--json").data == []
    save_a_model(home)
    (listed,) = discod("model", "list", "--json").data
    assert (listed["ref"], listed["round"], listed["accuracy"]) == ("digits", 40, 0.5)
    assert discod("model", "export", "digits@40", "-o", "d.safetensors").code == 0
    again = saved.load("d.safetensors")
    assert (again.hash, again.task) == (listed["hash"], DIGITS)
    assert discod("model", "export", "digits", "-o", "d.safetensors").code == 2
    assert discod("model", "export", "digits", "-o", "d.npz").code == 0
    with np.load("d.npz") as archive:
        assert set(archive.files) == set(layout(DIGITS).names)


@pytest.mark.parametrize("words", [["digits@41"], ["nothing"], ["no.safetensors"]])
def test_unknown_model_is_65(words: list[str], discod: Type, home: Path) -> None:
    save_a_model(home)
    shown = discod("model", "export", *words, "-o", "x.npz", "--json")
    assert (shown.code, shown.error["code"]) == (65, "no-model")


def test_model_file_without_its_task_is_refused(discod: Type) -> None:
    from discod.store import save_tensors

    save_tensors(Path("x.safetensors"), {"w": np.zeros(3, np.float32)}, {})
    shown = discod("model", "predict", "x.safetensors", "sample:digits:test")
    assert shown.code == 65
    assert "model export" in shown.err


@pytest.mark.timeout(120)
def test_alone_a_task_is_trained_evaluated_and_used(discod: Type) -> None:
    """One real worker, end to end: train --local, model evaluate and predict."""
    discod("task", "new", "digits", "--no-privacy")
    text = Path("digits.toml").read_text().replace("rounds = 40", "rounds = 5 ")
    Path("digits.toml").write_text(text)
    discod("data", "add", "scans", "--sample", "digits:0-3")
    shown = discod("train", "digits.toml", "--local", "--json")
    assert shown.code == 0, shown.out
    assert shown.data["accuracy"] > 0.9
    discod("data", "add", "seen", "--sample", "digits:0-3")
    assert discod("model", "evaluate", "digits", "--data", "seen", "--json").data["accuracy"] > 0.9
    from discod.train.datasets import sample

    rows = sample("digits:0-3")
    np.save("one.npy", rows.inputs[0])
    one = discod("model", "predict", "digits", "one.npy", "--json").data
    assert one["class"] == rows.labels[0]
    assert 0.3 < one["prob"] <= 1
    np.savez("some.npz", x=rows.inputs[:3], y=rows.labels[:3])
    assert "3 of 3 as labelled" in discod("model", "predict", "digits", "some.npz").out
    np.save("bad.npy", np.zeros((2, 5)))
    shown = discod("model", "predict", "digits", "bad.npy")
    assert shown.code == 65
    assert "shape" in shown.err
    again = discod("train", "digits.toml", "--data", "seen", "--local", "--jsonl")
    lines = [json.loads(x) for x in again.out.splitlines()]
    assert [x["round"] for x in lines[:-1]] == [1, 2, 3, 4, 5]
