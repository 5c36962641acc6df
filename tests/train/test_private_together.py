"""Private forms of the built-in tasks, by three real workers whose parameters numpy averages: do they learn?"""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest

from discod.train.datasets import load
from discod.train.templates import builtin_task
from discod.train.worker import Job, first_parameters, open_worker


@pytest.mark.parametrize(
    ("name", "floor"),
    [("digits", 0.86), ("tumor", 0.89)],  # 40 runs: 0.917, 0.886 at least; 600 runs: 0.969, 0.912 at least
)
async def test_three_peers_with_noise_learn_together(name: str, floor: float, kernel_cache: Path) -> None:
    task = builtin_task(name, private=True)
    jobs = [Job(task, f"sample:{name}:{part}/3") for part in (1, 2, 3)]
    parameters = first_parameters(jobs[0])
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(open_worker(job, cache=kernel_cache)) for job in jobs]
        for _ in range(task.rounds):
            for worker in workers:
                worker.parameters[:] = parameters
                await worker.train(task.round_duration)
            parameters = np.mean([worker.parameters for worker in workers], axis=0)
        workers[0].parameters[:] = parameters
        held_out = load(f"sample:{name}:test", task.data)
        predicted = (await workers[0].predict(held_out.inputs)).argmax(axis=1)
        assert workers[0].noise is not None
        assert workers[0].noise.steps == workers[0].batch_counter
    assert (predicted == held_out.labels).mean() > floor
