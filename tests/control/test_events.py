import trio
from trio.testing import wait_all_tasks_blocked

from discod.control.events import EventLog, wanted


def test_ids_rise_by_one_and_the_head_names_schema_and_time() -> None:
    log = EventLog(clock=lambda: 12.5)
    assert log.add("a", x=1) == 1
    assert log.add("b") == 2
    assert log.since(0) == [
        {"schema": "discod.event/1", "id": 1, "time": 12.5, "type": "a", "x": 1},
        {"schema": "discod.event/1", "id": 2, "time": 12.5, "type": "b"},
    ]
    assert [event["id"] for event in log.since(1)] == [2]
    assert log.since(2) == []


def test_what_fell_out_of_the_ring_shows_as_a_gap() -> None:
    log = EventLog(kept=3)
    for _ in range(5):
        log.add("tick")
    assert [event["id"] for event in log.since(1)] == [3, 4, 5]


def test_an_id_from_before_a_restart_counts_as_nothing_seen() -> None:
    log = EventLog()
    log.add("tick")
    assert [event["id"] for event in log.since(99)] == [1]


async def test_a_reader_gets_old_and_new_events_until_the_log_is_closed() -> None:
    log = EventLog()
    log.add("old")
    seen: list[str] = []

    async def read() -> None:
        after = 0
        while found := await log.more(after):
            seen.extend(event["type"] for event in found)
            after = found[-1]["id"]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        assert seen == ["old"]
        log.add("new")
        await wait_all_tasks_blocked()
        log.add("last")
        log.close()
    assert seen == ["old", "new", "last"]


def test_filters_compare_numbers_as_they_are_written() -> None:
    event = {"type": "round.finished", "run": 2}
    assert wanted(event, (), {"run": "2"})
    assert wanted(event, {"round.finished"}, {})
    assert not wanted(event, {"run.failed"}, {})
    assert not wanted(event, (), {"run": "3"})
    assert not wanted(event, (), {"op": "op-1"})
