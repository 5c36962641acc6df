"""Slow, obvious forward passes in float64, to hold the engine's against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from discod.train.datasets import normalised
from discod.train.task import TaskSpec

Array = NDArray[np.float64]
Tensors = Mapping[str, NDArray[Any]]


def logits(task: TaskSpec, tensors: Tensors, inputs: NDArray[Any]) -> Array:
    """Unscaled rows (n, *shape) -> (n, classes)."""
    hidden = normalised(inputs, task.data).astype(np.float64)
    if task.model.name == "lenet":
        hidden = hidden.reshape(len(hidden), *task.data.shape[:2], -1).transpose(0, 3, 1, 2)
        for number in (1, 2):
            weight, bias = tensors[f"convolution{number}.weight"], tensors[f"convolution{number}.bias"]
            hidden = pooled(np.maximum(convolved(hidden, weight, bias), 0))
    hidden, layers = hidden.reshape(len(hidden), -1), sum(name.startswith("dense") for name in tensors) // 2
    for number in range(1, layers + 1):
        hidden = hidden @ tensors[f"dense{number}.weight"].astype(np.float64) + tensors[f"dense{number}.bias"]
        if number < layers:
            hidden = np.maximum(hidden, 0)
    return hidden


def convolved(images: Array, weight: NDArray[Any], bias: NDArray[Any]) -> Array:
    """(n, c, h, w) with windows (out, c, s, s), without padding."""
    side = weight.shape[2]
    height, width = images.shape[2] - side + 1, images.shape[3] - side + 1
    result = np.zeros((len(images), len(weight), height, width))
    for row in range(height):
        for column in range(width):
            window = images[:, :, row : row + side, column : column + side]
            result[:, :, row, column] = np.einsum("ncij,ocij->no", window, weight) + bias
    return result


def pooled(images: Array) -> Array:
    """The largest of each 2x2 square; an odd last row or column is left out."""
    n, channels, height, width = images.shape
    even = images[:, :, : height // 2 * 2, : width // 2 * 2]
    largest: Array = even.reshape(n, channels, height // 2, 2, width // 2, 2).max(axis=(3, 5))
    return largest


def probabilities(values: Array) -> Array:
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    shares: Array = powers / powers.sum(axis=1, keepdims=True)
    return shares


def mean_loss(task: TaskSpec, tensors: Tensors, inputs: NDArray[Any], labels: NDArray[Any]) -> float:
    chosen = probabilities(logits(task, tensors, inputs))[np.arange(len(labels)), labels]
    return float(-np.log(chosen).mean())
