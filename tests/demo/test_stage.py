"""Which task the demo plays, and what it says in the end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import msgspec
import pytest
import trio

from discod.demo import stage
from discod.demo.performance import Figures
from discod.errors import LocalError, UsageError, UserError, first_error
from discod.train.templates import DIGITS

FIGURES = Figures(
    task="digits",
    scheme="decentralized",
    aggregator="mean",
    epsilon=None,
    peers=3,
    rounds=40,
    accuracy=0.932,
    best_alone=0.418,
    pooled=0.965,
    seconds=20.4,
    bytes_up_per_peer=1000,
    raw_rows_sent=0,
    model_sha256=["a", "a", "a"],
    paths=["direct"] * 3,
    privacy=None,
)


def test_flags_become_part_of_the_task() -> None:
    assert stage.choose("digits", 3, private=False) == (DIGITS, DIGITS)
    changed, _ = stage.choose("digits", 4, min_peers=2, rounds=7, seed=0)
    assert (changed.min_peers, changed.rounds, changed.seed) == (2, 7, 0)
    assert changed.aggregator == "mean"  # two cannot sum in secret


def test_the_task_is_private_and_what_it_is_compared_with_has_as_many_steps() -> None:
    task, plain = stage.choose("digits", 3)
    assert (task.privacy.unit, task.aggregator, plain.privacy.unit) == ("record", "secure", "none")
    assert task.rounds * task.round_duration == plain.rounds * plain.round_duration


def test_two_peers_are_told_that_a_secure_sum_needs_three() -> None:
    with pytest.raises(UsageError, match="3 peers"):
        stage.choose("digits", 2, aggregator="secure")


def test_federated_task_is_summed_in_the_clear_by_a_node_that_is_not_known_yet() -> None:
    together = stage.hosting("federated", False, None)
    task, plain = stage.choose("digits", 3, hosting=together)
    assert (task.scheme, task.aggregator, task.federated.mode, task.min_peers) == (
        "federated",
        "mean",
        "synchronous",
        3,
    )
    assert (task.federated.node, plain.scheme) == ("", "decentralized")
    late, _ = stage.choose("digits", 3, hosting=stage.hosting("federated", True, 2))
    assert (late.federated.cutoff, late.min_peers) == (2, 2)
    assert stage.hosting("decentralized", False, None) is None


@pytest.mark.parametrize(("scheme", "asynchronous"), [("decentralized", True), ("federated", False)])
def test_flags_that_belong_to_another_mode_are_refused(scheme: str, asynchronous: bool) -> None:
    with pytest.raises(UsageError, match=r"asynchronous|synchronous"):
        stage.hosting(scheme, asynchronous, 1)
    with pytest.raises(UsageError, match="sees every update"):
        stage.choose("digits", 3, aggregator="secure", hosting=stage.hosting("federated", False, None))


def test_more_peers_than_there_are_is_refused() -> None:
    with pytest.raises(UsageError, match="never"):
        stage.choose("digits", 3, min_peers=4)


def test_summary_compares_and_prints_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "which", lambda name: None)
    first, second, _, last = stage.summary(stage.Played(FIGURES, None), Path("discod-demo")).splitlines()
    assert "saw slices" in second
    assert "No noise" in second
    assert first == (
        "done in 20 s.  Together 0.932; best peer alone 0.418; all data in one place 0.965.  "
        "Raw rows that left a machine: 0"
    )
    model, sample = "discod-demo/digits.safetensors", "discod-demo/sample.npz"
    assert last == f"try: python3 run.py discod model predict {model} {sample}"
    assert len(stage.summary(stage.Played(FIGURES, None), None).splitlines()) == 2


def test_summary_says_what_secrecy_and_noise_cost() -> None:
    private = msgspec.structs.replace(FIGURES, aggregator="secure", epsilon=7.641, accuracy=0.916)
    lines = stage.summary(stage.Played(private, 0.947), None).splitlines()
    assert lines[1] == (
        "Updates: masked, only their sum was opened; that secrecy costs 0 points.  "
        "Noise: epsilon 7.64 for each row, at the cost of 3.1 points."
    )


def test_of_several_errors_a_bug_is_shown_before_the_rest() -> None:
    mendable, bug = UserError("one"), LocalError("two")
    group = BaseExceptionGroup("", [mendable, BaseExceptionGroup("", [UserError("three")])])
    assert first_error(group) is mendable
    assert first_error(BaseExceptionGroup("", [group, bug])) is bug


def test_signal_ends_the_performance_with_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await trio.sleep_forever()

    monkeypatch.setattr(stage, "perform", interrupted)
    with pytest.raises(UserError) as caught:
        stage.run(stage.Choice(DIGITS, DIGITS), 3, live=False, color=False, keep=None)
    assert (caught.value.code, caught.value.exit) == ("interrupted", 143)
