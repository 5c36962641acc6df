"""What a node reads of a request's head."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from signaling.heads import Head, parse_head
from signaling.tally import Family, exposition


def test_path_upgrade_and_the_last_forwarded_address() -> None:
    forwarded = b"x-Forwarded-for: 10.0.0.1\r\nX-Forwarded-For: a, [2001:db8::1]\r\n\r\n"
    assert parse_head(b"GET /v1?x=1 HTTP/1.1\r\nUpgrade: WebSocket\r\n" + forwarded) == Head(
        b"/v1", True, "2001:db8::1"
    )
    assert parse_head(b"GET /healthz HTTP/1.1\r\n\r\n") == Head(b"/healthz", False, "")
    assert parse_head(b"GET / HTTP/1.1\r\nX-Forwarded-For: 10.0.0.1, unknown\r\n\r\n").forwarded == ""
    assert parse_head(b"nonsense\r\n\r\n").path == b""


@given(st.binary(max_size=200))
def test_any_bytes_are_a_head(data: bytes) -> None:
    assert isinstance(parse_head(data), Head)
    assert isinstance(parse_head(b"GET / HTTP/1.1\r\nX-Forwarded-For:" + data), Head)


def test_the_text_that_prometheus_reads() -> None:
    families = [
        Family("a_total", "counter", "So many.", {'x"\\': 2, "b": 0.5}, "reason"),
        Family("c", "gauge", "C.", {"": 1}),
    ]
    assert exposition(families) == (
        "# HELP a_total So many.\n# TYPE a_total counter\n"
        'a_total{reason="b"} 0.5\na_total{reason="x\\"\\\\"} 2\n'
        "# HELP c C.\n# TYPE c gauge\nc 1\n"
    )
