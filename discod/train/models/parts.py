"""What models are made of: dense layers and convolutions, as parameter specs and as forward passes.

A model is two plain functions. `parameters` lists its tensors (no arithmetic, so the daemon can size the vector without
the engine); `forward` turns a batch and those tensors, in the same order, into logits. Forward passes use only the
methods of `Array` below, which the engine's tensors have; so this package imports no engine. Pure.

All tensors are weights and biases of dense layers and convolutions. A forward pass takes down what went through each,
from which the engine makes the gradient of every row by itself (engine/private.py). A model with parameters of another
kind, or one whose rows see each other, cannot do that: it stays out of PER_EXAMPLE in train/task.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Protocol, Self

from discod.train.task import TaskSpec
from discod.train.vector import ParameterSpec

Init = Literal["uniform", "lecun", "zeros", "ones"]


class Array(Protocol):
    """The part of the engine's tensor that models may use."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __add__(self, other: Array, /) -> Self: ...
    def matmul(self, other: Array, /) -> Self: ...
    def relu(self) -> Self: ...
    def __mul__(self, other: Array, /) -> Self: ...
    def sum(self, axes: tuple[int, ...], /) -> Self: ...
    def unfold(self, dim: int, size: int, step: int, /) -> Self: ...
    def expand(self, *shape: int) -> Self: ...
    def contiguous_backward(self) -> Self: ...
    def max_pool2d(self, kernel_size: tuple[int, int], /) -> Self: ...
    def flatten(self, start_dim: int, /) -> Self: ...
    def reshape(self, *shape: int) -> Self: ...
    def permute(self, *order: int) -> Self: ...


class Passage(NamedTuple):
    """A batch on its way through a layer with a weight and a bias: what went in, and what came out of that alone.

    Dense: (B, in) and (B, out). Convolution: windows (B, c, h, w, side, side) and (B, out, h, w).
    """

    inputs: Any
    outputs: Any


class Forward(Protocol):
    """inputs (B, *shape) float32, tensors -> logits (B, classes); each layer's Passage is added to `seen`, in order.

    The engine calls it with tensors of its own kind and gets one back.
    """

    __module__: str

    def __call__(self, inputs: Any, tensors: Sequence[Any], seen: list[Passage], /) -> Any: ...


class Model(NamedTuple):
    """`parameters(task)` -> specs of its tensors: a weight and a bias for each layer; `forward` uses them."""

    parameters: Callable[[TaskSpec], tuple[ParameterSpec, ...]]
    forward: Forward


def dense(name: str, inputs: int, outputs: int, *, init: Init = "uniform") -> tuple[ParameterSpec, ParameterSpec]:
    """Weight (inputs, outputs) and bias (outputs,)."""
    return (
        ParameterSpec(f"{name}.weight", (inputs, outputs), inputs, init),
        ParameterSpec(f"{name}.bias", (outputs,)),
    )


def convolution(name: str, inputs: int, outputs: int, side: int) -> tuple[ParameterSpec, ParameterSpec]:
    """Weight (outputs, inputs, side, side) and bias (outputs,)."""
    shape = (outputs, inputs, side, side)
    return ParameterSpec(f"{name}.weight", shape, inputs * side * side, "uniform"), ParameterSpec(
        f"{name}.bias", (outputs,)
    )


def dense_stack(widths: Sequence[int]) -> tuple[ParameterSpec, ...]:
    """Dense layers between the `widths`; the last one, which no rectifier follows, starts smaller."""
    last = len(widths) - 1
    return tuple(
        spec
        for number, (inputs, outputs) in enumerate(pairwise(widths), 1)
        for spec in dense(f"dense{number}", inputs, outputs, init="lecun" if number == last else "uniform")
    )


def dense_forward(inputs: Array, tensors: Sequence[Array], seen: list[Passage]) -> Array:
    """Dense layers with rectifiers between them: (B, ...) -> (B, last width)."""
    hidden = inputs.flatten(1)
    for index in range(0, len(tensors), 2):
        outputs = hidden.matmul(tensors[index]) + tensors[index + 1]
        seen.append(Passage(hidden, outputs))
        hidden = outputs.relu() if index + 2 < len(tensors) else outputs
    return hidden


def convolved(images: Array, weight: Array, bias: Array, seen: list[Passage]) -> Array:
    """Windows without padding: (B, c, h, w) -> (B, out, h - side + 1, w - side + 1).

    Each column of the result has a copy of the weight of its own, so that the weight's gradient is summed first for
    each column, then over columns. One long sum over everything is a chain that no processor can run in parallel: it
    takes 1.6 times as long, half of a whole step of lenet.
    """
    outputs, inputs, side, _ = weight.shape
    windows = images.unfold(2, side, 1).unfold(3, side, 1).contiguous_backward()  # (B, c, h, w, side, side)
    batch, _, height, width = windows.shape[:4]
    copies = weight.reshape(1, outputs, inputs, 1, 1, side, side).expand(1, outputs, inputs, 1, width, side, side)
    products = windows.reshape(batch, 1, inputs, height, width, side, side) * copies.contiguous_backward()
    result = products.sum((2, 5, 6)) + bias.reshape(1, outputs, 1, 1)
    seen.append(Passage(windows, result))
    return result


def features(task: TaskSpec) -> int:
    """How many numbers one row has."""
    return math.prod(task.data.shape)
