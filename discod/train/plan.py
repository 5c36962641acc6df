"""A captured step: the compiled kernels of one training step or forward pass, in order, as plain data.

The engine builds a step once, by tracing and rewriting graphs in Python for seconds. What remains is a list of machine
code functions and the buffers each one is called with. That list is all a step is, so it is kept: replaying it is one
foreign call a kernel (0.5 us where the engine's own dispatch takes 60), and a worker that finds it in the cache starts
without building anything. It is read only from this user's own cache directory, never from anyone else, and it is data
and machine code, not a pickle.

An argument of a kernel is a place in a buffer: an input (the caller's memory) or scratch (memory of the plan's own).
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from discod.train.compiler import private_directory, write_atomically

PATIENCE_SECONDS = 120.0  # longer than any plan takes to build
POLL_SECONDS = 0.02
ALIGNMENT_BYTES = 64  # kernels load aligned groups of floats

Function = Callable[..., Any]


class Place(msgspec.Struct, frozen=True, array_like=True):
    """`offset` bytes into input or scratch buffer number `buffer`; a bare number when `buffer` is -1."""

    buffer: int
    offset: int
    scratch: bool = False


class Kernel(msgspec.Struct, frozen=True, array_like=True):
    """Function number `code` of the plan, and what it is called with."""

    code: int
    arguments: tuple[Place, ...]


class Plan(msgspec.Struct, frozen=True, array_like=True):
    """Object files, the sizes of the scratch buffers (bytes), and the kernels in order."""

    codes: tuple[bytes, ...]
    scratch: tuple[int, ...]
    kernels: tuple[Kernel, ...]


def aligned_zeros(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Zeros at the start of a page; pages never touched take no memory."""
    count = int(np.prod(shape, dtype=np.int64))
    memory = mmap.mmap(-1, max(count * np.dtype(dtype).itemsize, 1))
    return np.frombuffer(memory, dtype, count).reshape(shape)


class BoundPlan:
    """A plan loaded and tied to its inputs; calling it runs the step."""

    def __init__(self, plan: Plan, inputs: Sequence[NDArray[Any]], load: Callable[[bytes], Function]) -> None:
        functions = [load(code) for code in plan.codes]
        self._kept = (functions, inputs, [aligned_zeros((size,), np.uint8) for size in plan.scratch])
        self._calls = [
            (functions[kernel.code], tuple(ctypes.c_uint64(self._address(place)) for place in kernel.arguments))
            for kernel in plan.kernels
        ]

    def _address(self, place: Place) -> int:
        if place.buffer < 0:
            return place.offset
        buffers = self._kept[2] if place.scratch else self._kept[1]
        return int(buffers[place.buffer].ctypes.data) + place.offset

    def __call__(self, times: int = 1) -> None:
        """Run the step `times` times."""
        for _ in range(times):
            for function, arguments in self._calls:
                function(*arguments)


def cached(directory: Path, key: str, build: Callable[[], Plan], waiting: Callable[[], None]) -> Plan:
    """The plan named `key` from the cache, or what `build` makes, kept for the next worker.

    Of several workers that need the same plan one builds it and the others wait for its file. A file that cannot be
    read is built again. `waiting` is called before anything slow.
    """
    path = private_directory(directory) / f"{key}.plan"
    if (plan := _read(path)) is not None:
        return plan
    waiting()
    with _locked(directory / f"{key}.lock"):
        if (plan := _read(path)) is None:
            plan = build()
            write_atomically(path, msgspec.msgpack.encode(plan))
    return plan


def _read(path: Path) -> Plan | None:
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=Plan)
    except (OSError, msgspec.DecodeError):
        return None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the file's lock; the system lets it go when the process ends, however it ends.

    Whoever has waited in vain for PATIENCE_SECONDS (its holder may be stopped) goes on without: two that build the same
    plan do no harm.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        while not _taken(descriptor) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
