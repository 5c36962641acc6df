"""Joint metrics in real daemons: what is shown of a round is what all peers measured of the state it started from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from discod.daemon.surroundings import Engine
from discod.store import open_store
from discod.train.datasets import sample
from discod.train.task import ModelSpec, PrivacySpec, RoundSpec, TaskSpec, TrainingSpec
from discod.train.templates import DIGITS_DATA
from tests.daemon.company import Part, add_rows, train
from tests.daemon.conftest import Home

TASK = TaskSpec(
    name="joint",
    data=DIGITS_DATA,
    model=ModelSpec("logreg"),
    training=TrainingSpec(batch_size=16, validation_split=0.2),
    round=RoundSpec(rounds=4, round_duration=2, min_peers=3, straggle_seconds=60.0),
    privacy=PrivacySpec(metrics="joint"),
)
SIZES = (65, 130, 255)


def measured(part: Part) -> int:
    assert part.validation is not None
    return len(part.validation)


async def test_runs_show_what_all_peers_measured(home: Callable[[str], Home], signaling: str, tmp_path: Path) -> None:
    rows, homes = sample("digits:train"), [home(name) for name in ("anna", "bert", "carl")]
    parts = [
        add_rows(one, TASK, tmp_path / f"{size}.npz", rows.inputs[:size], rows.labels[:size])
        for one, size in zip(homes, SIZES, strict=True)
    ]
    await train(homes, signaling, TASK, Engine("stand-in", length=2000), 60)
    counts = np.array([measured(part) for part in parts])
    assert any(counts % 2), "or rounding would not show"
    for one in homes:
        with closing(open_store(one.paths.state)) as store:
            first, *later = [row.figures for row in store.figures(store.runs()[0].number)]
        assert (first["accuracy_joint"], first["loss_joint"]) == (None, None)
        assert [each["accuracy_joint"] for each in later] == [(counts // 2).sum() / counts.sum()] * 3
        before = [first["loss"], *[each["loss"] for each in later[:-1]]]  # the stand-in's: of the state alone
        assert [each["loss_joint"] for each in later] == pytest.approx(before, abs=3 * 2**-9 / counts.sum() + 1e-9)
        assert len(set(before)) == 3
