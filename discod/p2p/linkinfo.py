"""What is shown of a link."""

from __future__ import annotations

from msgspec import Struct

from discod.p2p.link import Link
from discod.wire.links import CONTROL, DATA


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


def link_info(link: Link) -> LinkInfo:
    """The state of a link now."""
    frames, names = link.frames, {"control": CONTROL, "bulk": DATA}
    return LinkInfo(
        link.path,
        link.rtt_seconds,
        {name: frames.sent[kind] for name, kind in names.items()},
        {name: frames.received[kind] for name, kind in names.items()},
        link.refused,
        link.welcome.name,
        link.welcome.software,
        link.since,
    )
