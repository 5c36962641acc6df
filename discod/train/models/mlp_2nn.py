"""The 2NN of McMahan et al. 2017, section 3: two hidden layers of 200 units; 199,210 parameters on MNIST."""

from __future__ import annotations

from discod.train.models.parts import Model, dense_forward, dense_stack, features
from discod.train.task import TaskSpec
from discod.train.vector import ParameterSpec

HIDDEN = (200, 200)


def parameters(task: TaskSpec) -> tuple[ParameterSpec, ...]:
    return dense_stack((features(task), *HIDDEN, task.data.classes))


MODEL = Model(parameters, dense_forward)
