"""One toy daemon behind a real unix socket."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from discod.client import Client
from discod.control.app import Call, Operation, make_app
from discod.control.events import EventLog
from discod.control.serve import bind_socket, serve_control
from discod.errors import BadInvite


class Greeting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    times: int = 1


async def healthy(call: Call) -> Any:
    return {"live": True}


async def greet(call: Call) -> Any:
    return {"text": " ".join([f"hello {call.body.name}"] * call.body.times)}


async def look(call: Call) -> Any:
    return {"ref": call.path["ref"], "mesh": call.query.get("mesh")}


async def refuse(call: Call) -> Any:
    raise BadInvite("this invite expired yesterday", "ask for a new one")


async def break_down(call: Call) -> Any:
    raise ZeroDivisionError("secret detail")


OPERATIONS = (
    Operation("GET", "/healthz", "health", healthy),
    Operation("POST", "/v1/greetings", "greeting", greet, Greeting, 201),
    Operation("GET", "/v1/things/{ref}", "thing", look),
    Operation("POST", "/v1/join", "op", refuse),
    Operation("GET", "/v1/bug", "bug", break_down),
)


@pytest.fixture
def short_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dc") as name:
        yield Path(name)


@pytest.fixture
def events() -> EventLog:
    return EventLog()


@pytest.fixture
async def client(short_directory: Path, events: EventLog) -> AsyncIterator[Client]:
    path = short_directory / "s"
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, make_app(OPERATIONS, events), bind_socket(path), frozenset({os.getuid()}))
        yield Client(path, timeout=10)
        nursery.cancel_scope.cancel()
