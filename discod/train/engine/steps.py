"""The pure functions a worker runs: one step of training, one forward pass, each on a list of cells.

Nothing but the cells goes in or out, so a captured step can be kept and run in another process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tinygrad import Context, Tensor, dtypes

from discod.train.models import MODELS
from discod.train.task import TaskSpec

Cells = Sequence[Tensor]


def training_step(task: TaskSpec) -> Callable[[Cells], None]:
    """One step of SGD on cells [rows, labels, low, scale, indices, mask, counter, totals, *parameters, *velocities]."""
    model, momentum = MODELS[task.model.name], task.training.momentum

    def step(cells: Cells) -> None:
        rows, labels, low, scale, indices, mask, counter, totals, *state = cells
        count = len(state) // 2 if momentum else len(state)
        parameters, velocities = state[:count], state[count:]
        batch = indices[counter].reshape(task.batch_size)  # (B,)
        weights = mask[counter].reshape(task.batch_size).cast(dtypes.float32)  # (B,)
        logits = model.forward(normalised(rows[batch], low, scale), parameters, [])
        losses = row_losses(task, logits, labels[batch]) * weights
        gradients = (losses.sum() / weights.sum().maximum(1)).gradient(*parameters)
        hits = (logits.argmax(axis=1) == labels[batch]).cast(dtypes.float32) * weights
        written = moved(task, parameters, velocities, gradients)
        totals.assign(totals + Tensor.stack(losses.sum(), hits.sum(), weights.sum()))
        counter.assign(counter + 1)
        with Context(SPLIT_REDUCEOP=0):  # a long sum split in two hides that picking rows is no sum at all
            Tensor.realize(*written, totals, counter)

    return step


def forward_step(task: TaskSpec) -> Callable[[Cells], None]:
    """Logits of a chunk of rows on cells [chunk, low, scale, logits, *parameters]."""
    model = MODELS[task.model.name]

    def step(cells: Cells) -> None:
        chunk, low, scale, logits, *parameters = cells
        logits.assign(model.forward(normalised(chunk, low, scale), parameters, [])).realize()

    return step


def normalised(rows: Tensor, low: Tensor, scale: Tensor) -> Tensor:
    """As train.datasets.normalised: (x - low) * scale, elementwise."""
    flat = rows.cast(dtypes.float32).reshape(rows.shape[0], -1)
    return ((flat - low) * scale).reshape(rows.shape)


def row_losses(task: TaskSpec, logits: Tensor, labels: Tensor) -> Tensor:
    """(B, classes), (B,) -> the cross-entropy of each row (B,)."""
    wanted = labels.one_hot(task.data.classes).cast(dtypes.float32)  # (B, classes)
    return -(logits.log_softmax(axis=1) * wanted).sum(axis=1)


def moved(task: TaskSpec, parameters: Cells, velocities: Cells, gradients: Cells) -> list[Tensor]:
    """One step of SGD along `gradients`: what to realize, velocities (none without momentum) first."""
    rate, momentum = task.training.learning_rate, task.training.momentum
    if momentum:
        velocities = [v.assign(v * momentum + g) for v, g in zip(velocities, gradients, strict=True)]
    moves = velocities if momentum else gradients
    return [*velocities, *(p.assign(p.detach() - move * rate) for p, move in zip(parameters, moves, strict=True))]
