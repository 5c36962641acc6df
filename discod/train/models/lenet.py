"""LeNet as in NIID-Bench's simple-cnn (Li et al. 2022): 44,426 parameters on 28x28 images of one channel.

5x5 convolution to 6 channels - pool 2 - 5x5 convolution to 16 - pool 2 - dense 120 - dense 84 - dense classes
"""

from __future__ import annotations

from collections.abc import Sequence

from discod.train.models.parts import Array, Model, Passage, convolution, convolved, dense_forward, dense_stack
from discod.train.task import TaskSpec
from discod.train.vector import ParameterSpec

CHANNELS = (6, 16)
SIDE = 5  # pixels of a convolution's window
HIDDEN = (120, 84)


def parameters(task: TaskSpec) -> tuple[ParameterSpec, ...]:
    height, width, channels = (*task.data.shape, 1)[:3]
    rest = _after(_after(height)) * _after(_after(width)) * CHANNELS[1]
    return (
        *convolution("convolution1", channels, CHANNELS[0], SIDE),
        *convolution("convolution2", CHANNELS[0], CHANNELS[1], SIDE),
        *dense_stack((rest, *HIDDEN, task.data.classes)),
    )


def _after(pixels: int) -> int:
    """What a side of `pixels` is after one convolution and one pooling."""
    return (pixels - SIDE + 1) // 2


def forward(inputs: Array, tensors: Sequence[Array], seen: list[Passage]) -> Array:
    hidden = channels_first(inputs)  # (B, c, h, w)
    for index in (0, 2):
        hidden = convolved(hidden, tensors[index], tensors[index + 1], seen).relu().max_pool2d((2, 2))
    return dense_forward(hidden, tensors[4:], seen)


def channels_first(images: Array) -> Array:
    """(B, h, w) or (B, h, w, c) -> (B, c, h, w)."""
    shape = images.shape
    return images.reshape(shape[0], 1, *shape[1:]) if len(shape) == 3 else images.permute(0, 3, 1, 2)


MODEL = Model(parameters, forward)
