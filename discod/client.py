"""The control API from the other side of the socket: synchronous, standard library only, so that the CLI stays fast."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Collection, Iterator
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from discod.errors import Exit, NotRunning, PermissionProblem, TimedOut, UserError

ANSWER_SECONDS = 30.0

Event = dict[str, Any]


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("d", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ref(name: str) -> str:
    """A name or id as one piece of a path."""
    return quote(name, safe="")


class Client:
    """Calls one daemon. Every failure is a UserError: the daemon's own, NotRunning or TimedOut."""

    def __init__(self, path: Path, timeout: float = ANSWER_SECONDS) -> None:
        self.path = path
        self.timeout = timeout

    def get(self, route: str) -> Any:
        """The data of a GET."""
        return self.envelope("GET", route)["data"]

    def post(self, route: str, body: dict[str, Any] | None = None) -> Any:
        """The data of a POST with a JSON body."""
        return self.envelope("POST", route, body)["data"]

    def envelope(self, method: str, route: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The whole envelope of a call that succeeded."""
        with self._open(self.timeout) as connection:
            response = self._ask(connection, method, route, body)
            return _checked(response.status, _read(response))

    def answers(self) -> bool:
        """Whether a daemon is there."""
        try:
            self.envelope("GET", "/healthz")
        except UserError:
            return False
        return True

    def events(
        self,
        since: int = 0,
        types: Collection[str] = (),
        *,
        run: int | None = None,
        op: str | None = None,
        follow: bool = True,
    ) -> Iterator[Event]:
        """Events above `since` as they happen; ends when the daemon ends, or with what is there if not `follow`."""
        query = {"since": since, "types": ",".join(types), "run": run, "op": op, "follow": int(follow)}
        route = "/v1/events?" + urlencode({name: value for name, value in query.items() if value not in (None, "")})
        with self._open(None) as connection:
            response = self._ask(connection, "GET", route)
            if response.status != 200:
                _checked(response.status, _read(response))
            yield from map(json.loads, _lines(response))

    def wait_for_op(self, op: str, since: int, on_event: Callable[[Event], None] = lambda event: None) -> Any:
        """Follow an operation to its end; its data.

        Raises:
            UserError: the one that the operation failed with; NotRunning: the daemon ended meanwhile.
        """
        for event in self.events(since, op=op):
            on_event(event)
            if event["type"] == "op.finished":
                return event["data"]
            if event["type"] == "op.failed":
                raise error_from(event["error"])
        raise NotRunning("the daemon ended before it was done", "discod up, then ask again")

    def _open(self, timeout: float | None) -> _Closing:
        return _Closing(_UnixConnection(self.path, timeout))

    def _ask(
        self, connection: HTTPConnection, method: str, route: str, body: dict[str, Any] | None = None
    ) -> HTTPResponse:
        content = None if body is None else json.dumps(body).encode()
        headers = {"Connection": "close"} | ({} if body is None else {"Content-Type": "application/json"})
        try:
            connection.request(method, route, content, headers)
            return connection.getresponse()
        except TimeoutError:
            raise self._too_slow() from None
        except PermissionError:
            raise PermissionProblem(f"{self.path} belongs to another user", "ask that user, or use --home") from None
        except (ConnectionError, FileNotFoundError, HTTPException) as error:
            raise NotRunning(f"no daemon answers on {self.path} ({error})", "start it: discod up") from None

    def _too_slow(self) -> TimedOut:
        return TimedOut(f"the daemon did not answer within {self.timeout:g} s", "it may be busy: try again")


class _Closing:
    """A connection that is closed at the end of the block, whatever happened to its answer."""

    def __init__(self, connection: _UnixConnection) -> None:
        self._connection = connection

    def __enter__(self) -> _UnixConnection:
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def error_from(fields: dict[str, Any]) -> UserError:
    """The daemon's error, to be raised again here."""
    exit_code = fields["exit"] if fields.get("exit") in set(Exit) else Exit.FAILED
    return UserError(fields["message"], fields["hint"], code=fields["code"], exit=Exit(exit_code))


def _read(response: HTTPResponse) -> bytes:
    try:
        return response.read()
    except TimeoutError:
        raise TimedOut("the daemon did not finish its answer", "it may be busy: try again") from None
    except (ConnectionError, HTTPException) as error:
        raise NotRunning(f"the daemon ended while it answered ({error})", "discod up, then ask again") from None


def _lines(response: HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            line = response.readline()
        except (ConnectionError, HTTPException):
            return
        if not line.endswith(b"\n"):
            return
        yield line


def _checked(status: int, raw: bytes) -> dict[str, Any]:
    try:
        shape: dict[str, Any] = json.loads(raw)
        if status < 300:
            return shape
        raise error_from(shape)
    except (ValueError, KeyError, TypeError):
        text = f"the daemon answered {status} with something that is not discod's"
        raise UserError(text, "is another program on that socket?", exit=Exit.INTERNAL) from None
