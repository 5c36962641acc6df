"""Every reader of bytes that somebody else made, in one table: what tests/test_decoders.py and bench fuzz try.

Any bytes give a value, or the error of that reader: a PeerError for what comes over the network, a UserError for files
and what a person writes. Never anything else, and never more memory than `most_memory` of the input's size.
What is not here: the pipes to the worker, which is our own child, and SQLite files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from discod.config.settings import parse_config, read_table
from discod.control.app import parse_body as parse_request
from discod.daemon import requests
from discod.daemon.kept import _certificate
from discod.daemon.versions import _kept
from discod.errors import PeerError, UserError
from discod.identity import parse_id, parse_record
from discod.identity.links import parse_link
from discod.identity.records import _Sealed
from discod.p2p.hosted import _said
from discod.p2p.hosting import answer
from discod.store.tensors import load_tensors, tensor_pieces
from discod.train.datasets.npz import read_npz
from discod.train.datasets.source import readable
from discod.train.datasets.table import read_table as read_csv
from discod.train.task import encode_task
from discod.train.taskfile import decode_task, load_task
from discod.train.templates import builtin_task
from discod.wire.codec import MAX_SIGNALING_BYTES, PROTOCOL_VERSION, SIGNATURE_BYTES, decode, encode
from discod.wire.federated import hosted_task
from discod.wire.links import bulk_decoder, link_decoder
from discod.wire.rounds import BODIES, Envelope, Signed, head_decoder, parse_body, parse_envelope
from discod.wire.signaling import Beat, Denied, Find, Knock, from_node, to_node, whisper
from signaling.depot import asked
from signaling.heads import parse_head
from signaling.process import read_limits
from signaling.server import said

VECTORS = Path(__file__).resolve().parents[1] / "tests" / "p2p" / "vectors.json"
MEMORY_A_BYTE, MEMORY_BEYOND = 512, 1 << 21
HASH = bytes(32)
Read = Callable[[bytes], object]


class Decoder(NamedTuple):
    """One reader: `read` raises `error` or returns; `seeds` are inputs that it takes, or nearly."""

    name: str
    read: Read
    error: type[Exception]
    seeds: tuple[bytes, ...]


def most_memory(size: int) -> int:
    """Bytes that reading `size` bytes may take."""
    return MEMORY_A_BYTE * size + MEMORY_BEYOND


def _wire(kind: Any, limit: int) -> Read:
    return lambda data: decode(kind, data, limit)


def _body(kind: str) -> Read:
    return lambda data: parse_body(Envelope(PROTOCOL_VERSION, kind, HASH, HASH, HASH, 0, data))


def _file(directory: Path, name: str, read: Callable[[Path], object]) -> Read:
    path = directory / name

    def written(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return written


def _text(read: Callable[[str], object]) -> Read:
    return lambda data: read(data.decode("utf-8", "replace"))


def _npz(path: Path) -> object:
    with readable(path):  # as every caller does
        return read_npz(path)


def _request(kind: type) -> Read:
    return lambda data: parse_request(kind, data)


def _messages() -> dict[str, bytes]:
    found = json.loads(VECTORS.read_text())["messages"]
    return {kind: bytes.fromhex(signed)[:-SIGNATURE_BYTES] for kind, signed in found.items()}


def _network() -> Iterator[Decoder]:
    words = (Knock(1, bytes(16), "a:1"), Find(HASH), Beat(7), Denied("code", "why", b""))
    signaling = tuple(map(encode, words))
    for name, kind in (("node", said), ("to node", to_node), ("from node", from_node), ("whisper", whisper)):
        yield Decoder(name, _wire(kind, MAX_SIGNALING_BYTES), PeerError, signaling)
    for name, kind in (("buffer", asked), ("from buffer", answer)):
        yield Decoder(name, _wire(kind, MAX_SIGNALING_BYTES), PeerError, signaling)
    messages = _messages()
    envelopes = tuple(messages.values())
    for name, kind in (("link", link_decoder), ("bulk", bulk_decoder), ("head", head_decoder)):
        yield Decoder(name, _wire(kind, 1 << 20), PeerError, envelopes[:1])
    for name, kind in (("certificate", _certificate), ("node's certificate", _said), ("version", _kept)):
        yield Decoder(name, _wire(kind, 1 << 20), PeerError, envelopes[:1])
    yield Decoder("envelope", lambda data: parse_body(parse_envelope(Signed(data, bytes(64)))), PeerError, envelopes)
    bodies = {kind: parse_envelope(Signed(data, bytes(64))).body for kind, data in messages.items()}
    for kind in BODIES:
        yield Decoder(f"body {kind}", _body(kind), PeerError, tuple(filter(None, (bodies.get(kind),))))
    yield Decoder("record", parse_record, PeerError, envelopes[:1])
    yield Decoder("record body", lambda data: parse_record(encode(_Sealed(data, ()))), PeerError, envelopes[:1])
    yield Decoder("hosted task", hosted_task, PeerError, (encode_task(builtin_task("digits", 2)),))
    yield Decoder("http head", parse_head, PeerError, (b"GET /v1 HTTP/1.1\r\nX-Forwarded-For: ::1\r\n\r\n",))


def _local(directory: Path) -> Iterator[Decoder]:
    task = encode_task(builtin_task("digits", 3))
    yield Decoder("task", decode_task, UserError, (task,))
    yield Decoder("task file", _text(load_task), UserError, (b'schema = 1\nname = "a"\n[model]\nname = "mlp"\n',))
    yield Decoder("link text", _text(parse_link), UserError, (b"discod://a:1/j/00000000.0000#0000",))
    yield Decoder("id", _text(parse_id), UserError, (b"M4TZ-8HQN",))
    for kind in (requests.NewMesh, requests.Join, requests.NewInvite, requests.RaiseBudget, requests.NewTask):
        yield Decoder(f"request {kind.__name__}", _request(kind), UserError, (b'{"name": "a", "wait": 1.0}',))
    tensors = b"".join(map(bytes, tensor_pieces({"a": np.ones(3, np.float32)}, {"b": "c"})))
    yield Decoder("safetensors", _file(directory, "a.safetensors", load_tensors), UserError, (tensors,))
    config = _file(directory, "c.toml", lambda path: parse_config(read_table(path), "it"))
    yield Decoder("config", config, UserError, (b'name = "a"\n[compute]\nthreads = 2\n',))
    limits = _file(directory, "l.toml", read_limits)
    yield Decoder("limits", limits, UserError, (b"joins_per_minute = 60\n",))
    yield Decoder("csv", _file(directory, "d.csv", lambda path: read_csv(path, (), "")), UserError, (b"x,y\n1,2\n",))
    arrays = directory / "seed.npz"
    np.savez(arrays, x=np.ones((2, 2), np.float32), y=np.ones(2, np.int64))
    yield Decoder("npz", _file(directory, "d.npz", _npz), UserError, (arrays.read_bytes(),))


@contextmanager
def decoders() -> Iterator[tuple[Decoder, ...]]:
    """The table; files are read from a directory that ends with the block."""
    with TemporaryDirectory(prefix="discod-fuzz-") as directory:
        yield (*_network(), *_local(Path(directory)))
