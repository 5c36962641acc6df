"""A multilayer perceptron with the task's own hidden widths (64-32-10 on the digits)."""

from __future__ import annotations

from discod.train.models.parts import Model, dense_forward, dense_stack, features
from discod.train.task import TaskSpec
from discod.train.vector import ParameterSpec


def parameters(task: TaskSpec) -> tuple[ParameterSpec, ...]:
    return dense_stack((features(task), *task.model.hidden, task.data.classes))


MODEL = Model(parameters, dense_forward)
