"""What passes over the worker's two pipes: length-prefixed msgpack, requests down, replies up.

    parent                            child
      -> Job                            what to train, on which data, from which batch on
      <- Event*, Ready | Failed         "compiling" and the like, then the number of rows and their noise
      -> Train | Evaluate | Predict     one at a time, numbered
      <- Trained | Measured | Probabilities | Failed     with the same number

The parameters never take this way: they lie in memory that both processes map. Nor do data: the child loads them itself
from the source that the job names. Only the parent and its own child speak here, so frames are not limited. Pure.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from discod.privacy.plan import Noise
from discod.train.task import TaskSpec

LENGTH_BYTES = 4  # little-endian
Split = Literal["train", "validation"]


class Job(msgspec.Struct, frozen=True):
    """What a worker is started for.

    `data` is a source as train.datasets reads it; `batch_counter` the batches trained so far, over passes and restarts.
    Of the stand-in alone: `stand_in_length` makes a vector of so many floats instead of the task's (0), and it rests
    `seconds_per_batch` in each batch.
    """

    task: TaskSpec
    data: str
    batch_counter: int = 0
    engine: Literal["tinygrad", "stand-in"] = "tinygrad"
    device: str = "CPU"
    stand_in_length: int = 0
    seconds_per_batch: float = 0.0


class Train(msgspec.Struct, frozen=True, tag="train"):
    """Train the next `batches`."""

    number: int
    batches: int


class Evaluate(msgspec.Struct, frozen=True, tag="evaluate"):
    """Measure the parameters as they are on one side of the split."""

    number: int
    split: Split


class Predict(msgspec.Struct, frozen=True, tag="predict"):
    """Classify rows: `inputs` are `rows` rows of the task's shape and dtype, unscaled, as little-endian bytes."""

    number: int
    rows: int
    inputs: bytes


class Event(msgspec.Struct, frozen=True, tag="event"):
    """Something a person should see now, for example "compiling kernels (once)"."""

    text: str


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The engine is built and the data are loaded. `noise` is what every step adds to them, None without privacy."""

    number: int
    training_rows: int
    validation_rows: int
    content_hash: bytes
    noise: Noise | None = None


class Progress(msgspec.Struct, frozen=True):
    """What `batches` of training did: rows seen, their mean loss and accuracy while training, and the time it took."""

    batches: int
    samples: int
    loss: float
    accuracy: float
    seconds: float


class Metrics(msgspec.Struct, frozen=True):
    """Mean loss and accuracy over `count` rows; all 0 when that side of the split is empty."""

    loss: float
    accuracy: float
    count: int


class Trained(msgspec.Struct, frozen=True, tag="trained"):
    """`batch_counter` is the number of batches trained since the start of the task."""

    number: int
    progress: Progress
    batch_counter: int


class Measured(msgspec.Struct, frozen=True, tag="measured"):
    number: int
    metrics: Metrics


class Probabilities(msgspec.Struct, frozen=True, tag="probabilities"):
    """`values` are (rows, classes) float32, little-endian."""

    number: int
    rows: int
    values: bytes


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The person can mend it: raised again in the parent as the UserError it was."""

    number: int
    code: str
    message: str
    hint: str
    exit: int


Request = Train | Evaluate | Predict
Reply = Event | Ready | Trained | Measured | Probabilities | Failed
_ENCODER = msgspec.msgpack.Encoder()
_JOB = msgspec.msgpack.Decoder(Job)
_REQUEST: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_REPLY: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def frame(message: Job | Request | Reply) -> bytes:
    """The message with its length in front."""
    body = _ENCODER.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "little") + body


def decode_job(body: bytes) -> Job:
    return _JOB.decode(body)


def decode_request(body: bytes) -> Request:
    return _REQUEST.decode(body)


def decode_reply(body: bytes) -> Reply:
    return _REPLY.decode(body)
