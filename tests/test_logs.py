import errno
import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from discod.logs import set_up


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(out: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_entries_are_one_json_object_per_line_above_the_level() -> None:
    out = io.StringIO()
    set_up("info", "auto", out)
    structlog.get_logger().debug("hidden")
    structlog.get_logger().info("round.finished", round=3)
    (entry,) = lines(out)
    assert entry["event"] == "round.finished"
    assert (entry["round"], entry["level"]) == (3, "info")


def test_secrets_are_taken_out_by_name_and_by_form() -> None:
    out = io.StringIO()
    set_up("info", "json", out)
    structlog.get_logger().info("join", seed="SSSS", text="use discod+ws://h:1/j/AAAA.BBBB#TTTT please")
    assert "SSSS" not in out.getvalue()
    assert "TTTT" not in out.getvalue()
    assert "discod+ws://h:1/j/AAAA.BBBB#" in out.getvalue()


def test_what_libraries_log_goes_the_same_way_with_its_traceback() -> None:
    out = io.StringIO()
    set_up("info", "json", out)
    try:
        raise ZeroDivisionError("here")
    except ZeroDivisionError:
        logging.getLogger("discod.control").exception("Error in %s", "ASGI")
    (entry,) = lines(out)
    assert (entry["event"], entry["logger"], entry["text"]) == ("library.log", "discod.control", "Error in ASGI")
    assert "ZeroDivisionError: here" in str(entry["exception"])


def test_the_console_form_is_for_people() -> None:
    out = io.StringIO()
    set_up("info", "console", out)
    structlog.get_logger().info("peer.connected", peer="lab-b")
    assert "peer.connected" in out.getvalue()
    assert "lab-b" in out.getvalue()


def test_a_log_that_takes_nothing_stops_nobody() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "no space left on device")

    set_up("info", "json", Full())
    structlog.get_logger().info("round.finished", round=3)
