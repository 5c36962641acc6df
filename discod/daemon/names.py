"""What people write for a mesh, peer, task or invite: a name, the short id, or the full one. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from discod.errors import UsageError
from discod.identity import short_id, show_id

Thing = TypeVar("Thing")


def matches(ref: str, value: bytes, name: str = "") -> bool:
    """Whether `ref` means the thing with this (32,) id and name. Case and hyphens of ids do not matter."""
    plain = _plain(ref)
    return bool(ref) and (ref == name or plain in (_plain(short_id(value)), _plain(show_id(value))))


def choose(what: str, ref: str, found: Sequence[Thing]) -> Thing:
    """The only one found. Raises: UsageError (unknown-WHAT or ambiguous)."""
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{len(found)} {what}s are called {ref[:80]!r}", "write the id instead", code="ambiguous")
    plural = "meshes" if what == "mesh" else f"{what}s"
    raise UsageError(f"there is no {what} {ref[:80]!r} here", f"look at the {plural} there are", code=f"unknown-{what}")


def _plain(text: str) -> str:
    return text.replace("-", "").replace(" ", "").upper()
