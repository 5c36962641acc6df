"""What left the peers is counted by kind, and paths once per pair."""

from __future__ import annotations

from discod.demo.audit import paths, raw_rows
from discod.train.templates import DIGITS


def link(name: str, path: str | None, *, me: bool = False, **kinds: int) -> dict[str, object]:
    return {"name": name, "self": me, "linked": path is not None, "path": path, "bytes_up_by_kind": kinds}


def test_known_kinds_carry_no_rows() -> None:
    assert raw_rows(DIGITS, [link("b", "direct", control=10**6, bulk=10**7)]) == 0


def test_bytes_of_an_unknown_kind_count_as_rows() -> None:
    assert raw_rows(DIGITS, [link("b", "direct", rows=129), link("c", "relay", other=1), link("a", None, me=True)]) == 3


def test_each_linked_pair_has_one_path() -> None:
    seen = {
        "a": [link("a", None, me=True), link("b", "direct"), link("c", "relay")],
        "b": [link("b", None, me=True), link("a", "direct"), link("c", None)],
        "c": [link("c", None, me=True), link("a", "relay"), link("b", None)],
    }
    assert paths(seen) == ["direct", "relay"]
