"""The tensors of a task's model and where they lie in the vector, for whoever sizes, starts or names them. Pure."""

from __future__ import annotations

from discod.train import vector
from discod.train.models import MODELS
from discod.train.task import TaskSpec
from discod.train.vector import Layout, ParameterSpec


def parameter_specs(task: TaskSpec) -> tuple[ParameterSpec, ...]:
    """The model's tensors, in the order of the vector."""
    return MODELS[task.model.name].parameters(task)


def layout(task: TaskSpec) -> Layout:
    """Where they lie in the vector of this task."""
    return vector.layout(parameter_specs(task))


def parameter_count(task: TaskSpec) -> int:
    """How many numbers the model learns (the vector is a little longer: it has gaps)."""
    return layout(task).parameter_count
