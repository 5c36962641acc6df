"""The worker as the daemon sees it: a child process, two pipes, and the vector in memory that both processes map.

Training runs in a child, because in a thread it stalls the network for hundreds of milliseconds, and because a child
may crash, be killed or run out of memory alone. What passes over the pipes is in worker_messages.py. The memory has no
name in any file system, so nothing is left behind whoever is killed; the child ends by itself when this process does.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
import trio
from numpy.typing import NDArray

import discod
from discod.errors import DiscodError, Exit, UserError
from discod.privacy.plan import Noise
from discod.train import worker_messages as messages
from discod.train.compiler import cache_directory, compiler_environment
from discod.train.layers import layout, parameter_specs
from discod.train.standin import stand_in_layout
from discod.train.vector import Layout, Vector, initial_parameters
from discod.train.worker_messages import Job, Metrics, Progress, Split

__all__ = ["Job", "Metrics", "Progress", "Split", "Worker", "WorkerDied", "job_layout", "open_worker"]

CHILD = "discod.train.worker_process"
LAST_WORDS_BYTES = 2000  # of the child's standard error, kept for the log
READ_BYTES = 65_536
ENDING_SECONDS = 2.0  # a child whose pipe broke has so long to end by itself

Answer = TypeVar("Answer", messages.Ready, messages.Trained, messages.Measured, messages.Probabilities)


class WorkerDied(DiscodError):
    """The child process ended: crashed, killed, out of memory. The parameters are as it left them, perhaps in mid-step.

    `status` is its exit status (negative: the signal), `last_words` the end of what it wrote to its standard error.
    """

    def __init__(self, status: int, last_words: str) -> None:
        last_line = last_words.rpartition("\n")[2]
        super().__init__(f"the worker ended with status {status}" + (f": {last_line}" if last_line else ""))
        self.status = status
        self.last_words = last_words


def job_layout(job: Job) -> Layout:
    """The layout of the vector that a worker with this job trains."""
    return stand_in_layout(job.stand_in_length) if job.stand_in_length else layout(job.task)


def first_parameters(job: Job) -> Vector:
    """(d,) what every peer of the task starts from."""
    if job.stand_in_length:
        return np.zeros(job.stand_in_length, np.float32)
    return initial_parameters(parameter_specs(job.task), job.task.seed)


class Worker:
    """A running worker. `parameters` (d,) float32 is the memory the child trains in: write to it only between calls.

    One call at a time; a second one waits for its turn. Every call raises WorkerDied once the child has ended. A call
    that is cancelled leaves the child working: it finishes what was asked, and the next call waits for that.
    """

    def __init__(
        self, job: Job, process: trio.Process, vector: Vector, words: IO[bytes], on_event: Callable[[str], None]
    ) -> None:
        self.parameters = vector
        self.layout = job_layout(job)
        self.batch_counter = job.batch_counter  # batches trained so far, over passes and restarts
        self.training_rows = 0
        self.validation_rows = 0
        self.content_hash = b""
        self.noise: Noise | None = None  # what each step adds; None without privacy
        self._job, self._process, self._words, self._on_event = job, process, words, on_event
        self._turn = trio.Lock()
        self._number = 0
        self._received = bytearray()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def train(self, batches: int) -> Progress:
        """Train the next `batches`; `parameters` changes in place.

        Cancelled: the batches asked for are trained all the same, and `batch_counter` counts them after the next call.
        """
        return (await self._ask(lambda number: messages.Train(number, batches), messages.Trained)).progress

    async def evaluate(self, split: Split) -> Metrics:
        """Mean loss and accuracy of the parameters as they are; count 0 where that side of the split is empty."""
        return (await self._ask(lambda number: messages.Evaluate(number, split), messages.Measured)).metrics

    async def predict(self, inputs: NDArray[np.generic]) -> NDArray[np.float32]:
        """Unscaled rows (n, *shape) -> probabilities (n, classes)."""
        rows = np.ascontiguousarray(inputs, self._job.task.data.dtype).reshape(len(inputs), -1)
        answer = await self._ask(lambda n: messages.Predict(n, len(rows), rows.tobytes()), messages.Probabilities)
        return np.frombuffer(answer.values, np.float32).reshape(len(rows), self._job.task.data.classes)

    async def _start(self) -> None:
        await self._send(messages.frame(self._job))
        ready = await self._reply(0, messages.Ready)
        self.training_rows, self.validation_rows = ready.training_rows, ready.validation_rows
        self.content_hash, self.noise = ready.content_hash, ready.noise

    async def _ask(self, request: Callable[[int], messages.Request], kind: type[Answer]) -> Answer:
        # No deadline: only the caller knows how long training may take; a dead child is noticed at once.
        async with self._turn:
            self._number += 1
            await self._send(messages.frame(request(self._number)))
            return await self._reply(self._number, kind)

    async def _reply(self, number: int, kind: type[Answer]) -> Answer:
        """The reply with this number; older ones belong to calls that were cancelled."""
        while True:
            reply = await self._receive()
            if isinstance(reply, messages.Trained):
                self.batch_counter = reply.batch_counter
            match reply:
                case messages.Event(text):
                    self._on_event(text)
                case messages.Failed(of, code, message, hint, status) if of == number:
                    raise UserError(message, hint, code=code, exit=Exit(status))
                case kind() as answer if answer.number == number:
                    return answer

    async def _send(self, frame: bytes) -> None:
        assert self._process.stdin is not None
        try:
            with trio.CancelScope(shield=True):  # half a frame would spoil the pipe; the child reads when it is idle
                await self._process.stdin.send_all(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise await self._death() from None

    async def _receive(self) -> messages.Reply:
        assert self._process.stdout is not None
        while (end := _frame_end(self._received)) is None:
            try:
                more = await self._process.stdout.receive_some(READ_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                more = b""
            if not more:
                raise await self._death()
            self._received += more
        body = bytes(self._received[messages.LENGTH_BYTES : end])
        del self._received[:end]
        return messages.decode_reply(body)

    async def _death(self) -> WorkerDied:
        with trio.move_on_after(ENDING_SECONDS):  # its own status says more than that of being killed
            await self._process.wait()
        await _close(self._process)
        status = self._process.returncode
        assert status is not None, "a process that was waited for has a status"
        self._words.seek(max(0, self._words.seek(0, os.SEEK_END) - LAST_WORDS_BYTES))
        return WorkerDied(status, self._words.read().decode(errors="replace").strip())


def _frame_end(received: bytearray) -> int | None:
    """Where the first frame ends, or None while it is not all there."""
    if len(received) < messages.LENGTH_BYTES:
        return None
    end = messages.LENGTH_BYTES + int.from_bytes(received[: messages.LENGTH_BYTES], "little")
    return end if len(received) >= end else None


@asynccontextmanager
async def open_worker(
    job: Job,
    *,
    parameters: Vector | None = None,
    cache: Path | None = None,
    on_event: Callable[[str], None] = lambda text: None,
) -> AsyncIterator[Worker]:
    """Start a worker on `parameters` (d,) (none: the task's first ones) and wait until it can train.

    The values are copied in; `worker.parameters` is the shared memory. `on_event` gets lines a person should see while
    it starts. Leaving the block kills the child: nothing it holds needs saving.

    Raises: WorkerDied; UserError (BadData and the like) when the data do not fit the task.
    """
    place = job_layout(job)
    with tempfile.TemporaryFile() as words, _nameless_memory(place.d * 4) as descriptor:
        vector = np.frombuffer(mmap.mmap(descriptor, place.d * 4), np.float32)
        vector[:] = first_parameters(job) if parameters is None else parameters
        process = await _open_process(job, descriptor, cache or cache_directory(os.environ), words)
        try:
            worker = Worker(job, process, vector, words, on_event)
            await worker._start()
            yield worker
        finally:
            await _close(process)


@contextmanager
def _nameless_memory(size: int) -> Iterator[int]:
    """A descriptor of `size` bytes of memory that exist only as long as a process has them."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("discod-vector", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        os.ftruncate(descriptor, size)
        yield descriptor
    finally:
        os.close(descriptor)


async def _open_process(job: Job, descriptor: int, cache: Path, words: IO[bytes]) -> trio.Process:
    environment = dict(os.environ)
    if job.engine == "tinygrad":
        environment |= await trio.to_thread.run_sync(compiler_environment, cache, environment)
    environment |= ENGINE_VARIABLES | {"DEV": job.device.partition(":")[0], "PYTHONPATH": _import_path(environment)}
    command = [sys.executable, "-P", "-m", CHILD, str(descriptor), str(cache)]
    return await trio.lowlevel.open_process(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=words,
        pass_fds=[descriptor],
        env=environment,
        start_new_session=True,  # Ctrl-C at the terminal is for the daemon, which ends its workers itself
    )


# One thread, one process: several workers share the machine, and the engine's helpers would outlive a killed child. The
# rest: kernels are built as the engine does by default, whatever this person's environment says to it.
ENGINE_VARIABLES = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "PARALLEL": "0",
    "JIT": "1",
    "HCQ2": "0",
    "DEBUG": "0",
    "BEAM": "0",
}


def _import_path(environment: dict[str, str]) -> str:
    """The child imports the same discod as this process, wherever it was started."""
    here = str(Path(discod.__file__).parent.parent)
    rest = environment.get("PYTHONPATH", "")
    return os.pathsep.join([here, rest]) if rest else here


async def _close(process: trio.Process) -> None:
    """Kill the child and reap it; also when cancelled."""
    with trio.CancelScope(shield=True):
        process.kill()
        await process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(trio.BrokenResourceError):
                    await pipe.aclose()
