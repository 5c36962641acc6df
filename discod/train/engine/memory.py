"""Where a step's cells live: in this process's own memory (CPU), or copied to another device."""

from __future__ import annotations

import hashlib
import inspect
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from tinygrad import Tensor, TinyJit

from discod.train import plan
from discod.train.engine import capture, private, steps
from discod.train.engine.steps import Cells
from discod.train.models import MODELS, parts
from discod.train.task import TaskSpec

COMPILING = "compiling kernels (once)"

Array = NDArray[Any]
Step = Callable[[int], None]


class HostMemory:
    """Cells are this process's own arrays and steps are plans from the cache."""

    def __init__(self, task: TaskSpec, cache: Path, on_event: Callable[[str], None]) -> None:
        self._task, self._directory, self._on_event = task, cache / "plans", on_event
        self._said = False

    def step(self, function: Callable[[Cells], None], arrays: Sequence[Array]) -> Step:
        key = plan_key(self._task, function.__qualname__, arrays)
        found = plan.cached(self._directory, key, lambda: capture.capture(function, arrays), self._say)
        return plan.BoundPlan(found, arrays, capture.load)

    def _say(self) -> None:
        if not self._said:
            self._said = True
            self._on_event(COMPILING)

    def push(self, *arrays: Array) -> None:
        """Nothing to do: the step sees the arrays themselves."""

    def pull(self, *arrays: Array) -> None:
        """Nothing to do: the arrays are what the step wrote."""


class DeviceMemory:
    """Cells are tensors on another device, one for each array, and steps run under the engine's JIT."""

    def __init__(self, device: str, on_event: Callable[[str], None]) -> None:
        self._device, self._on_event = device, on_event
        self._tensors: dict[int, tuple[Array, Tensor]] = {}

    def _tensor(self, array: Array) -> Tensor:
        if id(array) not in self._tensors:
            zeros = Tensor(np.zeros_like(array), device=self._device).contiguous().realize()
            self._tensors[id(array)] = array, zeros
        return self._tensors[id(array)][1]

    def step(self, function: Callable[[Cells], None], arrays: Sequence[Array]) -> Step:
        self._on_event(COMPILING)
        jit, cells = TinyJit(function), [self._tensor(array) for array in arrays]
        for _ in range(2):  # one plain run, one that captures; on zeros, before anything is pushed
            jit(cells)

        def run(times: int) -> None:
            for _ in range(times):
                jit(cells)

        return run

    def push(self, *arrays: Array) -> None:
        for array in arrays:
            self._tensor(array).assign(Tensor(array, device=self._device)).realize()

    def pull(self, *arrays: Array) -> None:
        for array in arrays:
            array[...] = self._tensor(array).numpy()


def plan_key(task: TaskSpec, name: str, arrays: Sequence[Array]) -> str:
    """What a plan depends on: the step, the task's model and training, shapes, this source, tinygrad, the processor."""
    constants = [name, task.model, task.training.learning_rate, task.training.momentum, task.data.classes]
    digest = hashlib.sha256(msgspec.msgpack.encode(constants))
    digest.update(repr([(array.shape, array.dtype.name) for array in arrays]).encode())
    digest.update("".join(_sources(task)).encode())
    digest.update(f"{version('tinygrad')} {platform.machine()} {_processor()}".encode())
    return digest.hexdigest()


def _sources(task: TaskSpec) -> list[str]:
    model = inspect.getmodule(MODELS[task.model.name].forward)
    assert model is not None
    return [inspect.getsource(module) for module in (steps, private, capture, plan, parts, model)]


def _processor() -> str:
    """The instruction set that kernels are compiled for; a cache may lie on a disk that several machines share."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
