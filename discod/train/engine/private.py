"""One step of DP-SGD (Abadi et al. 2016, algorithm 1) on a list of cells, each row's gradient clipped on its own.

The gradient of one row in a dense layer is the outer product of what went in, a, and the slope of the row's loss by
what came out, s; so its norm is |a| |s| and it is never built ("ghost clipping", Li et al. 2022, section 4): one more
product of matrices with the slopes scaled makes the clipped sum. A convolution's is built, (B, out, in side side): its
window is small. Rows do not see each other, so the slopes of all come from one backward pass of the summed loss.

    sum over rows of g min(1, C / |g|) + z C normals      |g| over all parameters of the model
    ------------------------------------------------
                  q N, whatever was drawn

Padding rows have no loss, hence no slope and no part in the sum. No row can spoil a step: inputs are cut at LARGEST,
far outside the task's bounds, and a gradient that is no number counts as none. Noise and the rule (C, q N) are cells:
z, C and N are no part of the captured step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

from tinygrad import Context, Tensor, dtypes

from discod.train.engine.steps import Cells, moved, normalised, row_losses
from discod.train.models import MODELS, Passage
from discod.train.task import TaskSpec

LARGEST = 1e4  # of a normalised input; within the task's bounds they are 0 to 1


def private_step(task: TaskSpec) -> Callable[[Cells], None]:
    """One step of DP-SGD on cells [rows, labels, low, scale, indices (1, B), mask (1, B), rule (2,), totals, *state].

    `state` is the parameters, the velocities if the task has momentum, and the noise: each as many as parameters.
    """
    model, momentum = MODELS[task.model.name], task.training.momentum

    def step(cells: Cells) -> None:
        rows, labels, low, scale, indices, mask, rule, totals, *state = cells
        count = len(state) // (3 if momentum else 2)
        parameters, velocities, noise = state[:count], state[count:-count], state[-count:]
        batch = indices.reshape(indices.shape[1])  # (B,)
        weights = mask.reshape(mask.shape[1]).cast(dtypes.float32)  # (B,)
        passages: list[Passage] = []
        inputs = normalised(rows[batch], low, scale).clamp(-LARGEST, LARGEST)
        logits = model.forward(inputs, parameters, passages)
        losses = row_losses(task, logits, labels[batch]) * weights
        slopes = losses.sum().gradient(*[passage.outputs for passage in passages])
        sums = clipped_sums(passages, slopes, rule[0])
        gradients = [(s.reshape(p.shape) + n) / rule[1] for s, p, n in zip(sums, parameters, noise, strict=True)]
        hits = (logits.argmax(axis=1) == labels[batch]).cast(dtypes.float32) * weights
        written = moved(task, parameters, velocities, gradients)
        totals.assign(totals + Tensor.stack(losses.sum(), hits.sum(), weights.sum()))
        with Context(SPLIT_REDUCEOP=0):  # as in steps.py
            Tensor.realize(*written, totals)

    return step


def clipped_sums(passages: list[Passage], slopes: list[Tensor], clip: Tensor) -> list[Tensor]:
    """For each layer the weight's and the bias's gradients of all rows, each clipped over all layers, and summed."""
    built = [_built(p.inputs, s) if s.ndim == 4 else None for p, s in zip(passages, slopes, strict=True)]
    squares = [
        _square(p.inputs, s) if g is None else g.square().sum((1, 2)) + s.sum((2, 3)).square().sum(1)
        for p, s, g in zip(passages, slopes, built, strict=True)
    ]  # (B,) each
    norms = reduce(Tensor.__add__, squares).sqrt()
    factors = (norms < math.inf).where(clip / norms.maximum(clip), 0).contiguous()  # (B,)
    sums: list[Tensor] = []
    for passage, slope, gradients in zip(passages, slopes, built, strict=True):
        scaled = slope * factors.reshape(-1, *[1] * (slope.ndim - 1))
        if gradients is None:
            scaled = scaled.contiguous()
            sums += [passage.inputs.transpose(0, 1).matmul(scaled), scaled.sum(0)]
        else:
            sums += [(gradients * factors.reshape(-1, 1, 1)).sum(0), scaled.sum((0, 2, 3))]
    return sums


def _square(inputs: Tensor, slopes: Tensor) -> Tensor:
    """The squared norm (B,) of each row's gradient in a dense layer, bias (whose input is 1) included."""
    return (inputs.square().sum(1) + 1) * slopes.square().sum(1)


def _built(windows: Tensor, slopes: Tensor) -> Tensor:
    """(B, c, h, w, side, side) and (B, out, h, w) -> each row's gradient of the weight (B, out, c side side)."""
    batch, channels, height, width, side, _ = windows.shape
    columns = windows.permute(0, 2, 3, 1, 4, 5).reshape(batch, height * width, channels * side * side)
    return slopes.reshape(batch, -1, height * width).matmul(columns).contiguous()
