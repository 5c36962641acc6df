"""The worker: the child process that trains. Started by train.worker, never by hand.

It reads requests from its standard input and writes replies to what was its standard output (which then becomes its
standard error, so that nothing a library prints can disturb the replies). It ends when its parent does, however that
ends: a thread waits for the hang-up of the input pipe. The main thread alone touches the engine.
"""

from __future__ import annotations

import mmap
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from discod.errors import UserError
from discod.privacy.plan import Noise, plan_noise
from discod.train import worker_messages as messages
from discod.train.chacha import KEY_BYTES
from discod.train.datasets import Dataset, load, split
from discod.train.totals import Totals
from discod.train.vector import Vector

NICE = 10  # training yields to whatever else the machine does
PARENT_GONE = 3  # exit status
START = 0  # the number of the replies to a Job


class _Engine(Protocol):
    batch_counter: int

    def train(self, batches: int) -> Totals: ...
    def measure(self, dataset: Dataset) -> Totals: ...
    def logits(self, inputs: NDArray[np.generic], /) -> NDArray[np.float32]: ...


def main() -> None:
    """Serve one job on the pipes; arguments: the descriptor of the vector's memory, the cache directory."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    os.nice(NICE)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    vector = np.frombuffer(mmap.mmap(int(sys.argv[1]), 0), np.float32)
    _Loop(requests, replies, vector, Path(sys.argv[2])).run()


def _end_with_parent() -> None:
    """End this process when the other end of its input is closed, even in the middle of a step."""
    poll = select.poll()
    poll.register(0, select.POLLHUP)
    while not any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll()):
        pass
    os._exit(PARENT_GONE)


class _Loop:
    """One job: builds its engine, then answers requests until the input ends."""

    def __init__(self, requests: BinaryIO, replies: BinaryIO, vector: Vector, cache: Path) -> None:
        self._requests, self._replies, self._vector, self._cache = requests, replies, vector, cache

    def run(self) -> None:
        job = messages.decode_job(self._read())
        started = self._answer(START, partial(self._start, job))
        while started and (body := self._read()):
            request = messages.decode_request(body)
            self._answer(request.number, partial(self._serve, request))

    def _answer(self, number: int, work: Callable[[], messages.Reply]) -> bool:
        """Send the reply, or what the person must mend; whether it went well."""
        try:
            self._send(work())
        except UserError as error:
            self._send(messages.Failed(number, error.code, error.message, error.hint, int(error.exit)))
            return False
        return True

    def _start(self, job: messages.Job) -> messages.Ready:
        self._task = job.task
        data = load(job.data, job.task.data)
        rule, seed = job.task.training, job.task.seed
        training, validation = split(data, rule.validation_split, seed, by_row=job.task.is_private)
        self._sides: dict[str, Dataset | None] = {"train": training, "validation": validation}
        noise = plan_noise(job.task, len(training))
        self._engine = self._build(job, training, noise)
        return messages.Ready(START, len(training), len(validation or ()), training.content_hash, noise)

    def _build(self, job: messages.Job, training: Dataset, noise: Noise | None) -> _Engine:
        if job.engine == "stand-in":
            from discod.train.standin import StandIn

            return StandIn(
                job.task,
                self._vector,
                training,
                batch_counter=job.batch_counter,
                seconds_per_batch=job.seconds_per_batch,
            )
        from discod.train.engine import Engine  # here, so that the stand-in starts without tinygrad

        return Engine(
            job.task,
            self._vector,
            training,
            batch_counter=job.batch_counter,
            noise=noise,
            key=os.urandom(KEY_BYTES),
            device=job.device,
            cache=self._cache,
            on_event=lambda text: self._send(messages.Event(text)),
        )

    def _serve(self, request: messages.Request) -> messages.Reply:
        match request:
            case messages.Train(number, batches):
                return self._train(number, batches)
            case messages.Evaluate(number, side):
                rows = self._sides[side]
                totals = self._engine.measure(rows) if rows is not None else Totals(0.0, 0, 0)
                metrics = messages.Metrics(totals.mean_loss, totals.accuracy, totals.rows)
                return messages.Measured(number, metrics)
            case messages.Predict(number, rows, inputs):
                values = self._probabilities(np.frombuffer(inputs, self._task.data.dtype), rows)
                return messages.Probabilities(number, rows, values.tobytes())

    def _train(self, number: int, batches: int) -> messages.Trained:
        start = time.monotonic()
        totals = self._engine.train(batches)
        seconds = time.monotonic() - start
        progress = messages.Progress(batches, totals.rows, totals.mean_loss, totals.accuracy, seconds)
        return messages.Trained(number, progress, self._engine.batch_counter)

    def _probabilities(self, inputs: NDArray[np.generic], rows: int) -> NDArray[np.float32]:
        logits = self._engine.logits(inputs.reshape(rows, *self._task.data.shape)).astype(np.float64)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities: NDArray[np.float32] = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
        return probabilities

    def _read(self) -> bytes:
        """The next message's body; empty at the end of the input."""
        length = int.from_bytes(self._requests.read(messages.LENGTH_BYTES), "little")
        return self._requests.read(length)

    def _send(self, reply: messages.Reply) -> None:
        self._replies.write(messages.frame(reply))
        self._replies.flush()


if __name__ == "__main__":
    main()
