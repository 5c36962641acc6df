"""The vector: a model's named parameters laid out in one flat float32 array, and their first values.

Everything that leaves a worker is this vector; nothing outside train knows that it has tensors in it. Pure: numpy only.

Every tensor starts at a multiple of 16 floats (64 bytes), because the engine's kernels load aligned groups of floats
from views of the vector. The gaps are zero at the start and no training step touches them; they cost fewer than 16
floats a tensor.

First values come from the task's seed through SHA-256, Philox words and float operations that IEEE 754 rounds exactly:
no libm, no backend and no numpy distribution, whose streams may change. So all peers start bit-identical, anywhere.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

ALIGNMENT_FLOATS = 16  # 64 bytes: one cache line, the widest vector register
INIT_LABEL = b"discod/init/1"
MANTISSA_BITS = 24  # a float32 holds every integer below 2^24

Vector = NDArray[np.float32]


class ParameterSpec(msgspec.Struct, frozen=True):
    """One tensor of a model: its name, its shape, and how its first values are drawn.

    `init`: "uniform" is He et al. 2015 for the forward pass, U(-sqrt(6/fan_in), sqrt(6/fan_in)); "lecun" is
    U(-sqrt(3/fan_in), sqrt(3/fan_in)), for layers that no rectifier follows.
    """

    name: str
    shape: tuple[int, ...]
    fan_in: int = 1
    init: Literal["uniform", "lecun", "zeros", "ones"] = "zeros"

    @property
    def count(self) -> int:
        return math.prod(self.shape)


class Layout(msgspec.Struct, frozen=True):
    """Where each tensor lies in the vector: parallel tuples of names, shapes, offsets (in floats), and the length d."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    offsets: tuple[int, ...]
    d: int

    @property
    def parameter_count(self) -> int:
        """How many of the d floats are parameters; the rest are the gaps."""
        return sum(math.prod(shape) for shape in self.shapes)

    def views(self, vector: Vector) -> dict[str, Vector]:
        """Name -> view of `vector` (d,) in the tensor's shape; writing to a view writes to the vector."""
        assert vector.shape == (self.d,), (vector.shape, self.d)
        return {
            name: vector[offset : offset + math.prod(shape)].reshape(shape)
            for name, shape, offset in zip(self.names, self.shapes, self.offsets, strict=True)
        }

    def flatten(self, tensors: Mapping[str, NDArray[np.floating]]) -> Vector:
        """The (d,) vector that holds `tensors`; the inverse of `views`."""
        assert tensors.keys() == set(self.names), "the tensors are not those of this layout"
        vector = np.zeros(self.d, np.float32)
        for name, view in self.views(vector).items():
            assert tensors[name].shape == view.shape, name
            view[...] = tensors[name]
        return vector


def layout(specs: Iterable[ParameterSpec]) -> Layout:
    """Lay the tensors out in the order of the table, each aligned, the end too."""
    table, offsets, end = tuple(specs), [], 0
    for spec in table:
        offsets.append(end)
        end = _aligned(end + spec.count)
    names = tuple(spec.name for spec in table)
    assert len(set(names)) == len(names), "two tensors share a name"
    return Layout(names, tuple(spec.shape for spec in table), tuple(offsets), end)


def _aligned(floats: int) -> int:
    return -(-floats // ALIGNMENT_FLOATS) * ALIGNMENT_FLOATS


def initial_parameters(specs: Iterable[ParameterSpec], seed: int) -> Vector:
    """The (d,) vector every peer of the task starts from; each tensor's draw depends on (seed, its name) only."""
    table = tuple(specs)
    place = layout(table)
    vector = np.zeros(place.d, np.float32)
    views = place.views(vector)
    for spec in table:
        views[spec.name][...] = _first_values(spec, seed).reshape(spec.shape)
    return vector


def _first_values(spec: ParameterSpec, seed: int) -> Vector:
    if spec.init in ("zeros", "ones"):
        return np.full(spec.count, float(spec.init == "ones"), np.float32)
    limit = np.float32(math.sqrt((6.0 if spec.init == "uniform" else 3.0) / spec.fan_in))
    words = philox(INIT_LABEL, seed.to_bytes(8, "big"), spec.name.encode()).random_raw(spec.count)
    steps = (words >> np.uint64(64 - MANTISSA_BITS)).astype(np.int64) - (
        1 << (MANTISSA_BITS - 1)
    )  # in -2^23 .. 2^23 - 1
    unit = steps.astype(np.float32) / np.float32(1 << (MANTISSA_BITS - 1))  # exact
    return (unit * limit).astype(np.float32)


def philox(label: bytes, *context: bytes) -> np.random.Philox:
    """A public, reproducible stream of 64-bit words bound to its label and context; not for secrets, not for noise."""
    digest = hashlib.sha256(label)
    for part in context:
        digest.update(len(part).to_bytes(4, "big") + part)
    return np.random.Philox(key=int.from_bytes(digest.digest()[:16], "big"))


def not_finite(place: Layout, vector: Vector) -> str | None:
    """The name of the first tensor that holds a NaN or an infinity, or None when all d floats are finite."""
    if np.isfinite(vector).all():
        return None
    return next((name for name, view in place.views(vector).items() if not np.isfinite(view).all()), "(a gap)")
