"""A table of operations becomes an ASGI application; it knows no operation, and no server knows it.

    POST /v1/invites {...}   ->  201 {"schema": "discod.invite/1", "ok": true, "data": {...}}
    GET  /v1/events?since=7  ->  200 one event per line, until the reader hangs up
    what a person can mend   ->  4xx {"schema": "discod.error/1", "ok": false, "code", "message", "hint", "exit"}

Bodies are parsed once, here, into the operation's own struct; unknown fields are errors.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec
import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from discod.control.events import Event, EventLog, wanted
from discod.errors import Exit, UsageError, UserError

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

MAX_BODY_BYTES = 1 << 20
FILTERS = ("run", "op")  # fields of events that a stream can be restricted to

# What a program sees in the status line; the exit code says the same to a shell.
STATUS_OF_EXIT = {
    Exit.USAGE: 400,
    Exit.NOT_ALLOWED: 403,
    Exit.TIMED_OUT: 504,
    Exit.SIGNALING_UNREACHABLE: 502,
    Exit.INTERNAL: 500,
    Exit.TRY_AGAIN: 503,
}
STATUS_OF_CODE = {"ambiguous": 409, "name-taken": 409, "already-accepted": 409, "too-large": 413, "bad-method": 405}


class Call(msgspec.Struct, frozen=True):
    """One request, parsed: the path's parameters, the query, and the body as the operation's struct (or None)."""

    path: dict[str, str]
    query: dict[str, str]
    body: Any


class Operation(msgspec.Struct, frozen=True):
    """One row of the API: what is asked, the schema of the answer, and who answers."""

    method: str
    path: str
    schema: str  # without the "discod." and the version
    answer: Callable[[Call], Awaitable[Any]]
    body: type | None = None
    status: int = 200


def make_app(operations: Sequence[Operation], events: EventLog) -> Starlette:
    """The ASGI application over these operations and the event stream."""
    routes = [Route(row.path, _endpoint(row), methods=[row.method]) for row in operations]
    routes.append(Route("/v1/events", _stream(events), methods=["GET"]))
    handlers: dict[Any, Any] = {UserError: _user_error, HTTPException: _http_error, Exception: _internal_error}
    return Starlette(routes=routes, exception_handlers=handlers)


def envelope(schema: str, data: Any) -> bytes:
    """The bytes of a successful answer."""
    return msgspec.json.encode({"schema": f"discod.{schema}/1", "ok": True, "data": data})


def error_fields(error: UserError) -> dict[str, Any]:
    """The four fields of an error that a program may rely on."""
    return {"code": error.code, "message": error.message, "hint": error.hint, "exit": int(error.exit)}


def _endpoint(row: Operation) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        raw = await _read_body(request)
        body = None if row.body is None else parse_body(row.body, raw)
        data = await row.answer(Call(dict(request.path_params), dict(request.query_params), body))
        return Response(envelope(row.schema, data), row.status, media_type="application/json")

    return answer


def parse_body(kind: type, raw: bytes) -> Any:
    """The request's struct; no bytes at all are an empty object.

    Raises:
        UsageError: not JSON, or not that struct.
    """
    try:
        return msgspec.json.decode(raw or b"{}", type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise UsageError(f"bad request: {error}", "see the control API's documentation", code="bad-request") from None


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    async with aclosing(request.stream()) as pieces:
        async for piece in pieces:
            body += piece
            if len(body) > MAX_BODY_BYTES:
                raise UsageError(f"request body above {MAX_BODY_BYTES} bytes", code="too-large")
    return bytes(body)


def _stream(events: EventLog) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        query = request.query_params
        after = whole_number(query.get("since", "0"), "since")
        types = frozenset(filter(None, query.get("types", "").split(",")))
        fields = {name: query[name] for name in FILTERS if name in query}
        follow = query.get("follow", "1") != "0"
        return _EventStream(events, after, lambda event: wanted(event, types, fields), follow)

    return answer


class _EventStream(Response):
    """One event per line until the log is closed, or the reader hangs up."""

    media_type = "application/x-ndjson"

    def __init__(self, events: EventLog, after: int, want: Callable[[Event], bool], follow: bool) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._events, self._after, self._want, self._follow = events, after, want, follow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_hung_up, receive, nursery.cancel_scope)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while found := await self._next():
                self._after = found[-1]["id"]
                lines = b"".join(msgspec.json.encode(event) + b"\n" for event in found if self._want(event))
                await send({"type": "http.response.body", "body": lines, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            nursery.cancel_scope.cancel()

    async def _next(self) -> list[Event]:
        return await self._events.more(self._after) if self._follow else self._events.since(self._after)


async def _hung_up(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def whole_number(text: str, what: str) -> int:
    """Raises UsageError unless `text` is a whole number that is not negative."""
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise UsageError(f"{what}: {text[:32]!r} is not a whole number", code="bad-request")
    return int(text)


def status_of(error: UserError) -> int:
    """The HTTP status that goes with an error."""
    if error.code.startswith("unknown-") and error.exit == Exit.USAGE:
        return 404
    return STATUS_OF_CODE.get(error.code) or STATUS_OF_EXIT.get(error.exit, 422)


def _error_response(error: UserError, status: int) -> Response:
    shape = {"schema": "discod.error/1", "ok": False} | error_fields(error)
    return Response(msgspec.json.encode(shape), status, media_type="application/json")


async def _user_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, UserError)
    return _error_response(error, status_of(error))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = "bad-method" if error.status_code == 405 else "unknown-route"
    message = f"this daemon has no {request.method} {request.url.path}"
    return _error_response(
        UsageError(message, "is it older than this program? discod down && discod up", code=code), error.status_code
    )


async def _internal_error(request: Request, error: Exception) -> Response:
    """A bug of ours: the caller learns its kind only; the server raises it again and logs where it happened."""
    message = f"internal error in the daemon ({type(error).__name__})"
    hint = "its log says where: please report it"
    return _error_response(UserError(message, hint, code="internal", exit=Exit.INTERNAL), 500)
