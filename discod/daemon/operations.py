"""Operations that outlive their request: started, watched through events, kept until fifty newer ones have ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec
import trio

from discod.control.app import error_fields
from discod.control.events import EventLog
from discod.errors import UsageError, UserError

OPERATIONS_KEPT = 50

Progress = Callable[[str], None]


class _Operation(msgspec.Struct):
    """One operation and what came of it."""

    op: str
    state: Literal["running", "finished", "failed"] = "running"
    progress: list[str] = []
    data: Any = None
    error: dict[str, Any] | None = None


class Operations:
    """Starts operations in one nursery and tells their story as events."""

    def __init__(self, nursery: trio.Nursery, events: EventLog) -> None:
        self._nursery = nursery
        self._events = events
        self._known: dict[str, _Operation] = {}
        self._started = 0

    def start(self, work: Callable[[Progress], Awaitable[Any]]) -> dict[str, Any]:
        """Begin `work`, which gets a function to report progress with; the answer to the caller."""
        self._started += 1
        operation = _Operation(f"op-{self._started}")
        self._known[operation.op] = operation
        for old in list(self._known)[:-OPERATIONS_KEPT]:
            del self._known[old]
        since = self._events.last_id
        self._nursery.start_soon(self._run, operation, work)
        return {"op": operation.op, "since": since}

    def show(self, op: str) -> _Operation:
        """Raises: UsageError for one that is not known, or no more."""
        if op not in self._known:
            raise UsageError(f"there is no operation {op[:32]!r}", "it may be too old", code="unknown-op")
        return self._known[op]

    async def _run(self, operation: _Operation, work: Callable[[Progress], Awaitable[Any]]) -> None:
        def report(text: str) -> None:
            operation.progress.append(text)
            self._events.add("op.progress", op=operation.op, text=text)

        try:
            operation.data = await work(report)
        except UserError as error:
            operation.state, operation.error = "failed", error_fields(error)
            self._events.add("op.failed", op=operation.op, error=operation.error)
        else:
            operation.state = "finished"
            self._events.add("op.finished", op=operation.op, data=operation.data)
