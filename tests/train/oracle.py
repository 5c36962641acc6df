"""Slow, obvious forward passes and gradients in float64, to hold the engine's against."""

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


def gradient(task: TaskSpec, tensors: Tensors, row: NDArray[Any], label: int) -> dict[str, Array]:
    """The gradient of one row's loss by every tensor, by hand, layer by layer."""
    hidden, steps = normalised(row[None], task.data).astype(np.float64), []
    if task.model.name == "lenet":
        hidden = hidden.reshape(1, *task.data.shape[:2], -1).transpose(0, 3, 1, 2)
        for number in (1, 2):
            outputs = convolved(hidden, tensors[f"convolution{number}.weight"], tensors[f"convolution{number}.bias"])
            steps.append((f"convolution{number}", hidden, outputs))
            hidden = pooled(np.maximum(outputs, 0))
    flat = hidden.reshape(1, -1)
    layers = sum(name.startswith("dense") for name in tensors) // 2
    for number in range(1, layers + 1):
        outputs = flat @ tensors[f"dense{number}.weight"].astype(np.float64) + tensors[f"dense{number}.bias"]
        steps.append((f"dense{number}", flat, outputs))
        flat = np.maximum(outputs, 0) if number < layers else outputs
    slope = probabilities(flat) - np.eye(task.data.classes)[label]  # (1, classes): by the last outputs
    found: dict[str, Array] = {}
    for name, inputs, outputs in reversed(steps):
        weight = tensors[f"{name}.weight"].astype(np.float64)
        if name.startswith("convolution"):
            slope = unpooled(slope.reshape(pooled(outputs).shape), np.maximum(outputs, 0)) * (outputs > 0)
            found[f"{name}.bias"] = slope.sum((0, 2, 3))
            found[f"{name}.weight"], slope = convolution_gradients(inputs, weight, slope)
        else:
            slope = slope if name == f"dense{layers}" else slope * (outputs > 0)
            found[f"{name}.weight"], found[f"{name}.bias"] = inputs.T @ slope, slope[0]
            slope = slope @ weight.T
    return found


def convolution_gradients(images: Array, weight: Array, slope: Array) -> tuple[Array, Array]:
    """Slopes by the outputs (1, out, h, w) -> the gradients of the weight and of the images."""
    side, by_weight, by_images = weight.shape[2], np.zeros(weight.shape), np.zeros(images.shape)
    for row in range(slope.shape[2]):
        for column in range(slope.shape[3]):
            here = slope[0, :, row, column]
            window = images[0, :, row : row + side, column : column + side]
            by_weight += here[:, None, None, None] * window
            by_images[0, :, row : row + side, column : column + side] += np.tensordot(here, weight, 1)
    return by_weight, by_images


def unpooled(slope: Array, images: Array) -> Array:
    """Slopes by what `pooled` makes of `images` -> slopes by the images."""
    result = np.zeros(images.shape)
    for channel, row, column in np.ndindex(slope.shape[1:]):
        square = images[0, channel, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        place = np.unravel_index(square.argmax(), (2, 2))
        result[0, channel, 2 * row + place[0], 2 * column + place[1]] = slope[0, channel, row, column]
    return result
