"""What is shown of a link."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from discod.p2p.link import Link
from discod.wire.links import BULK, CONTROL, DATA


class LinkInfo(Struct, frozen=True):
    """One link; bytes by kind ("control", "bulk"), frames included."""

    path: str
    rtt_seconds: float | None
    bytes_up: dict[str, int]
    bytes_down: dict[str, int]
    messages_refused: int
    name: str
    software: str
    since: float  # trio's clock


NAMES = {CONTROL: "control", BULK: "control", DATA: "bulk"}  # a transfer's header counts as control


def by_kind(counted: Mapping[int, int]) -> dict[str, int]:
    """Bytes by the kind's name; a kind that nobody has named yet shows up under its number."""
    named = {"control": 0, "bulk": 0}
    for kind, count in counted.items():
        name = NAMES.get(kind, f"kind-{kind}")
        named[name] = named.get(name, 0) + count
    return named


def link_info(link: Link) -> LinkInfo:
    """The state of a link now."""
    frames = link.frames
    return LinkInfo(
        link.path,
        link.rtt_seconds,
        by_kind(frames.sent),
        by_kind(frames.received),
        link.refused,
        link.welcome.name,
        link.welcome.software,
        link.since,
    )
