"""Plans: kept once, built by one of many, rebuilt when their file is no good."""

from __future__ import annotations

import ctypes
import fcntl
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest

from discod.train import plan
from discod.train.plan import ALIGNMENT_BYTES, BoundPlan, Kernel, Place, Plan, aligned_zeros, cached

PLAN = Plan((b"code",), (64,), (Kernel(0, (Place(0, 4), Place(0, 8, scratch=True), Place(-1, 7))),))


def test_many_workers_build_a_plan_once(tmp_path: Path) -> None:
    built, started = [], threading.Barrier(4)

    def worker() -> None:
        started.wait()
        assert cached(tmp_path, "key", lambda: built.append(1) or PLAN, lambda: None) == PLAN  # type: ignore[func-returns-value]

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built == [1]


@pytest.mark.parametrize("content", [b"", b"\x00", b"not a plan", msgspec.msgpack.encode(PLAN)[:-1]])
def test_a_file_that_is_no_plan_is_built_again(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "key.plan").write_bytes(content)
    said: list[str] = []
    assert cached(tmp_path, "key", lambda: PLAN, lambda: said.append("slow")) == PLAN
    assert cached(tmp_path, "key", lambda: pytest.fail("it is kept"), lambda: said.append("slow")) == PLAN
    assert said == ["slow"]


def test_a_builder_that_stands_still_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "PATIENCE_SECONDS", 0.0)
    with (tmp_path / "key.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert cached(tmp_path, "key", lambda: PLAN, lambda: None) == PLAN


def test_a_build_that_fails_leaves_nothing_locked_or_written(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        cached(tmp_path, "key", lambda: 1 // 0, lambda: None)  # type: ignore[arg-type, return-value]
    assert cached(tmp_path, "key", lambda: PLAN, lambda: None) == PLAN


def test_kernels_get_the_addresses_of_inputs_scratch_and_plain_numbers() -> None:
    seen: list[tuple[int, ...]] = []
    kind = ctypes.CFUNCTYPE(None, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)
    function = kind(lambda *values: seen.append(values))
    data = aligned_zeros((3,), np.float32)
    BoundPlan(PLAN, [data], lambda code: function)(2)
    assert seen[0] == seen[1]
    first, scratch, number = seen[0]
    assert first == data.ctypes.data + 4
    assert scratch % ALIGNMENT_BYTES == 8
    assert number == 7


def test_memory_is_aligned_and_zero() -> None:
    for shape in ((3,), (0,), (2, 5)):
        array = aligned_zeros(shape, np.float32)
        assert array.shape == shape
        assert array.ctypes.data % ALIGNMENT_BYTES == 0
        assert not array.any()
