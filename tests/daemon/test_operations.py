import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from discod.control.events import EventLog
from discod.daemon.operations import OPERATIONS_KEPT, Operations, Progress
from discod.errors import BadInvite, UsageError


async def test_an_operation_tells_its_story_as_events_and_keeps_the_end() -> None:
    events = EventLog()
    events.add("before")

    async def work(report: Progress) -> dict[str, int]:
        report("clock ok")
        return {"peers": 2}

    async with trio.open_nursery() as nursery:
        operations = Operations(nursery, events)
        begun = operations.start(work)
    assert begun == {"op": "op-1", "since": 1}
    assert [(e["type"], e.get("text"), e.get("data")) for e in events.since(1)] == [
        ("op.progress", "clock ok", None),
        ("op.finished", None, {"peers": 2}),
    ]
    shown = operations.show("op-1")
    assert (shown.state, shown.progress, shown.data) == ("finished", ["clock ok"], {"peers": 2})


async def test_a_users_error_ends_it_and_not_the_daemon() -> None:
    events = EventLog()

    async def work(report: Progress) -> None:
        raise BadInvite("used up", "ask for another")

    async with trio.open_nursery() as nursery:
        operations = Operations(nursery, events)
        operations.start(work)
    error = {"code": "bad-invite", "message": "used up", "hint": "ask for another", "exit": 66}
    assert events.since(0)[-1]["error"] == error
    assert operations.show("op-1").state == "failed"


async def test_old_operations_are_forgotten_and_unknown_ones_named() -> None:
    async def work(report: Progress) -> None:
        pass

    async with trio.open_nursery() as nursery:
        operations = Operations(nursery, EventLog())
        for _ in range(OPERATIONS_KEPT + 1):
            operations.start(work)
        await wait_all_tasks_blocked()
    assert operations.show("op-2").state == "finished"
    with pytest.raises(UsageError, match="op-1"):
        operations.show("op-1")
