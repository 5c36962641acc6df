"""No row leaves a peer: a row like no other is put into the data and searched for in every byte that is sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from discod.daemon.surroundings import Engine
from discod.demo.audit import raw_rows
from discod.ring import chunk_bounds
from discod.train.datasets import normalised
from discod.train.standin import apply_batch
from discod.train.task import AggregationSpec, DataSpec, ModelSpec, RoundSpec, TaskSpec, TrainingSpec
from discod.train.vector import Vector
from discod.wire.links import BULK, CONTROL, DATA
from tests.daemon.company import Part, add_rows, train
from tests.daemon.conftest import Home
from tests.daemon.fedavg import federated
from tests.daemon.wiretap import Wiretap, seen, traces

FLOATS = 3000
FLOAT_DATA = DataSpec(classes=3, shape=(24,), low=(-2.0,), high=(5.0,))
BYTE_DATA = DataSpec(classes=3, shape=(4, 6), dtype="uint8", high=(255.0,))
MARKER = np.random.default_rng(77).uniform(-1.9, 4.9, 24).astype(np.float32)
PIXELS = np.random.default_rng(78).permutation(256)[:24].reshape(4, 6).astype(np.uint8)


def task_of(data: DataSpec) -> TaskSpec:
    return TaskSpec(
        name="marked",
        seed=5,
        data=data,
        model=ModelSpec("logreg"),
        training=TrainingSpec(batch_size=8),
        round=RoundSpec(rounds=3, round_duration=2, min_peers=3, straggle_seconds=60.0),
        aggregation=AggregationSpec("mean"),
    )


@pytest.mark.parametrize(("data", "marker"), [(FLOAT_DATA, MARKER), (BYTE_DATA, PIXELS)], ids=["float32", "uint8"])
async def test_no_link_sends_a_row(
    home: Callable[[str], Home],
    signaling: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    data: DataSpec,
    marker: NDArray[np.generic],
) -> None:
    task, homes, parts = task_of(data), [home(name) for name in ("anna", "bert", "carl")], []
    for number, one in enumerate(homes):
        random = np.random.default_rng(number)
        inputs = random.uniform(0, 4, (40, *data.shape)).astype(data.dtype)
        inputs[::5] = marker  # on both sides of the split
        parts.append(add_rows(one, task, tmp_path / f"{number}.npz", inputs, random.integers(0, 3, 40)))
    tap = Wiretap(monkeypatch)
    outcome = await train(homes, signaling, task, Engine("stand-in", "CPU", FLOATS), 100)
    sent = tap.everything()
    assert seen(traces(marker, data), sent) == set()
    # What was searched is what was sent: all pieces that went to another owner are in it, in the clear.
    bounds = chunk_bounds(FLOATS + 1, 3)
    for round_ in federated(task, np.zeros(FLOATS, np.float32), parts, stand_in):
        for words in round_.words:
            assert sum(any(words[a:b].tobytes() in stream for stream in sent) for a, b in bounds) >= 2
    kinds = tap.kinds()
    assert kinds.keys() == {CONTROL, BULK, DATA}
    assert kinds[DATA] > 3 * 3 * (2 * 2 / 3) * 4 * FLOATS  # rounds, peers, pieces and sums of all but one chunk
    assert sum(kinds.values()) == sum(map(len, tap.links.values()))
    assert len(outcome.linked) == 6
    assert raw_rows(task, outcome.linked) == 0


def stand_in(local: Vector, part: Part, rows: NDArray[np.int32], mask: NDArray[np.bool_], batch: int) -> None:
    apply_batch(local, 5, part.training.content_hash, batch)


@pytest.mark.parametrize(("data", "marker"), [(FLOAT_DATA, MARKER), (BYTE_DATA, PIXELS)], ids=["float32", "uint8"])
def test_a_row_would_be_found_in_any_form(data: DataSpec, marker: NDArray[np.generic]) -> None:
    marks, noise = traces(marker, data), np.random.default_rng(0).bytes(1 << 16)
    scaled = normalised(marker[None], data)
    assert seen(marks, [noise, bytes(1 << 16), bytes(range(256)) * 16]) == set()
    forms = [
        marker.tobytes(),
        marker.reshape(-1)[5:17].tobytes(),
        scaled.tobytes(),
        scaled.astype(np.float64).tobytes(),
        msgspec.msgpack.encode(bytes(marker.data)),
        json.dumps(marker.reshape(-1).tolist()).encode(),
        " ".join(map(str, scaled.reshape(-1).tolist())).encode(),
        marker.tobytes().hex().encode(),
    ]
    for form in forms:
        assert seen(marks, [noise + form + noise]), form
