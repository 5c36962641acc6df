"""Joint metrics in real daemons: what is shown of a round is what all peers measured of the state it started from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from itertools import combinations
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
    # Whoever has sent a measurement in an attempt that was lost does not send it again: a sum may lack some.
    groups = [list(group) for size in (1, 2, 3) for group in combinations(range(3), size)]
    ratios = {(counts[group] // 2).sum() / counts[group].sum() for group in groups}
    shown = []
    for one in homes:
        with closing(open_store(one.paths.state)) as store:
            first, *later = [row.figures for row in store.figures(store.runs()[0].number)]
        assert (first["accuracy_joint"], first["loss_joint"]) == (None, None)
        before = [first["loss"], *[each["loss"] for each in later[:-1]]]  # the stand-in's: of the state alone
        assert len(set(before)) == 3
        shown.append([each["accuracy_joint"] for each in later])
        for each, loss in zip(later, before, strict=True):
            if each["accuracy_joint"] is not None:
                assert each["accuracy_joint"] in ratios
                assert each["loss_joint"] == pytest.approx(loss, abs=3 * 2**-9 / counts.min() + 1e-9)
    seen = [
        {each for each in figures if each is not None} for figures in zip(*shown, strict=True)
    ]  # a fetched state: None
    assert all(len(figures) <= 1 for figures in seen)
    assert any(seen)
