"""A small task whose n-th joint state anybody can make again, for the tests of the store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from discod.store import Header, Store, open_store

TASK, OTHER, MESH, ROOT, RID = (bytes([n]) * 32 for n in range(1, 6))


@contextmanager
def opened(directory: Path) -> Iterator[Store]:
    store = open_store(directory, locked=True)
    try:
        yield store
    finally:
        store.close()


def vectors(number: int) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    return {"parameters": np.full(7, number + 0.5, np.float32), "outer": np.arange(number, dtype=np.uint32)}


def state_of(number: int) -> bytes:
    return hashlib.sha256(vectors(number)["parameters"].tobytes()).digest()


def header(number: int) -> Header:
    return Header(state_of(number), state_of(number - 1), number, b"certificate %d" % number)


def certify(store: Store, number: int) -> None:
    store.save_candidate(TASK, state_of(number), vectors(number), {"round": str(number)})
    store.certify(TASK, [header(number)])
