import json
from functools import partial
from typing import Any

import pytest
import trio

from discod.client import Client
from discod.control.app import MAX_BODY_BYTES, status_of
from discod.control.events import EventLog
from discod.errors import BadInvite, Exit, NotAllowed, SignalingUnreachable, UsageError, UserError

in_thread = trio.to_thread.run_sync


async def fails(call: Any, *args: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        await in_thread(call, *args)
    return caught.value


async def test_an_answer_comes_in_its_envelope(client: Client) -> None:
    shape = await in_thread(client.envelope, "POST", "/v1/greetings", {"name": "ada", "times": 2})
    assert shape == {"schema": "discod.greeting/1", "ok": True, "data": {"text": "hello ada hello ada"}}


async def test_path_and_query_reach_the_operation_unquoted(client: Client) -> None:
    assert await in_thread(client.get, "/v1/things/K7QX%2D4M2P?mesh=on%20co") == {"ref": "K7QX-4M2P", "mesh": "on co"}


@pytest.mark.parametrize(
    ("body", "part"),
    [({}, "name"), ({"name": "ada", "tims": 2}, "tims"), ({"name": 3}, "str"), ({"name": "a", "times": 1.5}, "int")],
)
async def test_a_body_of_the_wrong_shape_names_the_field(client: Client, body: dict[str, Any], part: str) -> None:
    error = await fails(client.post, "/v1/greetings", body)
    assert (error.code, error.exit) == ("bad-request", Exit.USAGE)
    assert part in error.message


async def test_a_user_error_arrives_as_it_was_raised(client: Client) -> None:
    error = await fails(client.post, "/v1/join", {})
    assert (error.message, error.hint) == ("this invite expired yesterday", "ask for a new one")
    assert (error.code, error.exit) == ("bad-invite", Exit.BAD_INVITE)


async def test_an_unknown_route_is_named(client: Client) -> None:
    error = await fails(client.get, "/v1/nothing")
    assert (error.code, error.exit) == ("unknown-route", Exit.USAGE)
    assert "GET /v1/nothing" in error.message
    assert (await fails(client.get, "/v1/greetings")).code == "bad-method"


async def test_an_oversized_body_is_refused(client: Client) -> None:
    error = await fails(client.post, "/v1/greetings", {"name": "a" * MAX_BODY_BYTES})
    assert error.code == "too-large"


async def test_a_bug_answers_500_without_its_details_and_the_next_call_works(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    error = await fails(client.get, "/v1/bug")
    assert (error.code, error.exit) == ("internal", Exit.INTERNAL)
    assert "secret" not in error.message
    assert await in_thread(client.answers)
    assert "secret detail" in caplog.text  # the log has the traceback


async def test_events_that_are_there_can_be_read_without_waiting(client: Client, events: EventLog) -> None:
    events.add("a", run=1)
    events.add("b", run=2)
    read = partial(lambda **kw: list(client.events(follow=False, **kw)))
    assert [event["id"] for event in await in_thread(read)] == [1, 2]
    assert [event["id"] for event in await in_thread(partial(read, since=1))] == [2]
    assert [event["type"] for event in await in_thread(partial(read, run=1))] == ["a"]
    assert [event["type"] for event in await in_thread(partial(read, types=["b", "c"]))] == ["b"]


async def test_a_bad_since_is_refused(client: Client) -> None:
    with pytest.raises(UserError, match="whole number"):
        await in_thread(lambda: list(client.events(since="soon", follow=False)))  # type: ignore[arg-type]


async def test_a_followed_stream_delivers_as_things_happen_and_ends_with_the_log(
    client: Client, events: EventLog
) -> None:
    seen: list[int] = []
    first = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def read() -> None:
        for event in client.events():
            seen.append(event["id"])
            token.run_sync_soon(first.set)

    async with trio.open_nursery() as nursery:
        events.add("old")
        nursery.start_soon(in_thread, read)
        await first.wait()
        events.add("new")
        events.close()
    assert seen == [1, 2]


async def test_an_operation_is_followed_to_its_end(client: Client, events: EventLog) -> None:
    texts: list[str] = []
    events.add("op.progress", op="op-1", text="clock ok")
    events.add("op.finished", op="op-2", data={"other": True})
    events.add("op.finished", op="op-1", data={"mesh": "oncology"})
    wait = partial(client.wait_for_op, "op-1", 0, lambda event: texts.append(event.get("text", "")))
    assert await in_thread(wait) == {"mesh": "oncology"}
    assert texts == ["clock ok", ""]


async def test_a_failed_operation_raises_its_error(client: Client, events: EventLog) -> None:
    error = {"code": "bad-invite", "message": "used up", "hint": "ask", "exit": 66}
    events.add("op.failed", op="op-1", error=error)
    raised = await fails(client.wait_for_op, "op-1", 0)
    assert (raised.message, raised.exit) == ("used up", Exit.BAD_INVITE)


def test_the_status_line_follows_from_code_and_exit() -> None:
    assert status_of(UsageError("", code="unknown-peer")) == 404
    assert status_of(UsageError("", code="ambiguous")) == 409
    assert status_of(UsageError("")) == 400
    assert status_of(NotAllowed("")) == 403
    assert status_of(SignalingUnreachable("")) == 502
    assert status_of(BadInvite("")) == 422


async def test_the_error_on_the_wire_has_the_documented_fields(client: Client) -> None:
    connection = client._open(5)
    with connection as open_:
        response = await in_thread(client._ask, open_, "POST", "/v1/join", {})
        shape = json.loads(await in_thread(response.read))
    assert response.status == 422
    assert set(shape) == {"schema", "ok", "code", "message", "hint", "exit"}
    assert shape["schema"] == "discod.error/1"
