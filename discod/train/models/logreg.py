"""Logistic regression: one dense layer. The smallest model, and convex: peers must agree on where it ends."""

from __future__ import annotations

from discod.train.models.parts import Model, dense_forward, dense_stack, features
from discod.train.task import TaskSpec
from discod.train.vector import ParameterSpec


def parameters(task: TaskSpec) -> tuple[ParameterSpec, ...]:
    return dense_stack((features(task), task.data.classes))


MODEL = Model(parameters, dense_forward)
