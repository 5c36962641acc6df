"""The worker process: it answers, it dies alone, and it never outlives its parent."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import trio
import trio.testing

from discod.errors import UserError
from discod.train.datasets import SAMPLES, load, split
from discod.train.layers import layout, parameter_specs
from discod.train.task import ModelSpec, TaskSpec, TrainingSpec
from discod.train.vector import initial_parameters
from discod.train.worker import Job, WorkerDied, job_layout, open_worker

TASK = TaskSpec(
    name="digits",
    data=SAMPLES["digits"].data,
    model=ModelSpec("mlp", (16,)),
    seed=4,
    training=TrainingSpec(learning_rate=0.25, batch_size=32, validation_split=0.25),
)
SOURCE = "sample:digits:1/3"
STAND_IN = Job(TASK, SOURCE, engine="stand-in")


async def test_starts_from_the_tasks_first_parameters_or_from_those_given() -> None:
    async with open_worker(STAND_IN) as worker:
        np.testing.assert_array_equal(worker.parameters, initial_parameters(parameter_specs(TASK), TASK.seed))
        assert worker.layout == layout(TASK)
    given = np.arange(layout(TASK).d, dtype=np.float32)
    async with open_worker(STAND_IN, parameters=given) as worker:
        np.testing.assert_array_equal(worker.parameters, given)


async def test_tells_the_rows_of_both_sides_and_the_hash_of_the_training_rows() -> None:
    training, validation = split(load(SOURCE, TASK.data), 0.25, TASK.seed)
    assert validation is not None
    async with open_worker(STAND_IN) as worker:
        assert (worker.training_rows, worker.validation_rows) == (len(training), len(validation))
        assert worker.content_hash == training.content_hash
        assert (await worker.evaluate("validation")).count == len(validation)
        assert (await worker.evaluate("train")).count == len(training)


async def test_digits_are_learned_and_the_person_is_told_about_kernels_once(kernel_cache: Path) -> None:
    said: list[str] = []
    job = Job(TASK, "sample:digits")
    async with open_worker(job, cache=kernel_cache, on_event=said.append) as worker:
        progress = await worker.train(400)
        metrics = await worker.evaluate("validation")
        test = load("sample:digits:test", TASK.data)
        predicted = await worker.predict(test.inputs)
    assert progress.batches == 400
    assert progress.samples == 400 * 32
    assert metrics.accuracy > 0.9
    assert (predicted.argmax(axis=1) == test.labels).mean() > 0.9
    assert said in ([], ["compiling kernels (once)"])


async def test_a_second_worker_finds_the_plans_and_trains_to_the_same_bits(kernel_cache: Path) -> None:
    said: list[str] = []
    runs = []
    for job in (Job(TASK, SOURCE), Job(TASK, SOURCE)):
        said.clear()
        async with open_worker(job, cache=kernel_cache, on_event=said.append) as worker:
            progress = await worker.train(50)
            runs.append((progress.loss, (await worker.evaluate("validation")).loss, worker.parameters.tobytes()))
    assert said == []
    assert runs[0] == runs[1]


async def test_killed_while_idle_or_training_is_noticed_and_named() -> None:
    async with open_worker(STAND_IN) as worker:
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied, match="status -9") as death:
            await worker.evaluate("train")
        assert death.value.status == -signal.SIGKILL
    slow = msgspec.structs.replace(STAND_IN, seconds_per_batch=60.0)
    async with open_worker(slow) as worker, trio.open_nursery() as nursery:
        nursery.start_soon(kill_when_all_wait, worker.pid)
        with pytest.raises(WorkerDied, match="status -15"):
            await worker.train(1)


async def kill_when_all_wait(pid: int) -> None:
    await trio.testing.wait_all_tasks_blocked()
    os.kill(pid, signal.SIGTERM)


async def test_a_crash_tells_its_last_words(kernel_cache: Path) -> None:
    with pytest.raises(WorkerDied, match=r"status 1: .*nowhere"):
        async with open_worker(Job(TASK, SOURCE, device="NOWHERE"), cache=kernel_cache):
            pass


async def test_what_the_person_can_mend_is_said_as_it_would_be_in_the_daemon(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist") as error:
        async with open_worker(Job(TASK, str(tmp_path / "none.npz"), engine="stand-in")):
            pass
    assert error.value.code == "no-data"


async def test_a_cancelled_call_is_finished_and_the_next_one_answers_for_itself() -> None:
    job = msgspec.structs.replace(STAND_IN, seconds_per_batch=0.01)
    async with open_worker(job) as worker:
        with trio.CancelScope() as scope:
            scope.cancel()
            await worker.train(3)
        with trio.move_on_after(0.005):
            await worker.train(5)
        counted = worker.batch_counter
        progress = await worker.train(2)
        assert progress.batches == 2
        assert worker.batch_counter >= counted + 2


async def test_batches_go_on_counting_in_a_new_worker() -> None:
    async with open_worker(STAND_IN) as worker:
        await worker.train(25)
        wanted = worker.parameters.copy()
    async with open_worker(STAND_IN) as worker:
        await worker.train(11)
        middle = worker.parameters.copy()
    async with open_worker(msgspec.structs.replace(STAND_IN, batch_counter=11), parameters=middle) as worker:
        await worker.train(14)
        assert worker.batch_counter == 25
        np.testing.assert_array_equal(worker.parameters, wanted)


async def test_the_stand_in_takes_a_vector_of_any_length() -> None:
    job = msgspec.structs.replace(STAND_IN, stand_in_length=100_003)
    assert job_layout(job).d == 100_003
    async with open_worker(job) as worker:
        await worker.train(1)
        assert worker.parameters.shape == (100_003,)
        assert worker.parameters.all()


def test_neither_the_daemon_nor_the_stand_in_loads_the_engine() -> None:
    code = """import sys, discod.train.worker, discod.train.standin, discod.train.worker_process
assert "tinygrad" not in sys.modules"""
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_leaving_the_block_ends_the_child() -> None:
    async with open_worker(STAND_IN) as worker:
        pid = worker.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


PARENT = """
import sys, trio
from discod.train.task import TaskSpec
from discod.train.worker import Job, open_worker
import msgspec

async def main():
    job = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Job)
    async with open_worker(job) as worker:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.train, 1)
            await trio.testing.wait_all_tasks_blocked()
            print(worker.pid, flush=True)

import trio.testing
trio.run(main)
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="watches a process that is not its child: needs pidfd")
def test_a_child_in_the_middle_of_training_ends_when_its_parent_is_killed() -> None:
    job = msgspec.msgpack.encode(msgspec.structs.replace(STAND_IN, seconds_per_batch=600.0))
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdin.write(job)
        parent.stdin.close()
        watched = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
        ended, _, _ = select.select([watched], [], [], 20)
        os.close(watched)
    assert ended
