"""Bytes by kind, for whoever audits what left: no kind is left out, whatever it may be called."""

from __future__ import annotations

from typing import Any

from discod.demo.audit import raw_rows
from discod.p2p.linkinfo import by_kind
from discod.train.templates import DIGITS
from discod.wire.links import BULK, CONTROL, DATA


def test_headers_count_as_control_and_words_as_bulk() -> None:
    assert by_kind({CONTROL: 10, BULK: 5, DATA: 1000}) == {"control": 15, "bulk": 1000}
    assert by_kind({}) == {"control": 0, "bulk": 0}


def test_a_kind_without_a_name_shows_up_and_counts_as_rows() -> None:
    shown = by_kind({CONTROL: 10, DATA: 1000, 3: 64, 250: 65})
    assert shown == {"control": 10, "bulk": 1000, "kind-3": 64, "kind-250": 65}
    link: dict[str, Any] = {"self": False, "bytes_up_by_kind": shown}
    assert raw_rows(DIGITS, [link]) == 3  # 129 bytes, 64 to a row of the digits
    assert raw_rows(DIGITS, [{"self": False, "bytes_up_by_kind": by_kind({CONTROL: 10, DATA: 1 << 20})}]) == 0
