"""The sentences of `status`: what a run is waiting for, and what is wrong. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def joined(parts: Sequence[str]) -> str:
    """a; b; c"""
    return "; ".join(parts)


def waiting_for(
    needed: int,
    others: Sequence[str],
    accepted: Collection[str],
    linked: Collection[str],
    *,
    ready: bool = True,
    secure: bool = False,
) -> str:
    """What a run with too few peers waits for. Names of the other trainers, who of them accepted, who is linked now.

    A secure sum of two does not exist: each would know the other's update.

    "waiting for 3 peers: 1 ready (you); lab-b accepted, offline; home-c has not accepted yet"
    """
    here = [name for name in others if name in accepted and name in linked]
    parts = [_ready_words(len(here) + ready, here, ready)]
    parts += [f"{name} accepted, offline" for name in others if name in accepted and name not in linked]
    missing = [name for name in others if name not in accepted]
    if 0 < len(missing) <= 3:
        parts += [f"{', '.join(missing)} {'has' if len(missing) == 1 else 'have'} not accepted yet"]
    elif missing:
        parts += [f"{len(missing)} members have not accepted yet"]
    if len(others) + 1 < needed:
        parts += [f"the mesh has only {len(others) + 1}: discod invite"]
    if secure and needed == 3 and len(here) + ready == 2:
        return f"waiting for a third peer (secure): {joined(parts)}"
    return f"waiting for {needed} peers: {joined(parts)}"


def _ready_words(count: int, here: Sequence[str], me: bool) -> str:
    names = (["you"] if me else []) + list(here)
    return f"{count} ready" + (f" ({', '.join(names)})" if names else "")


def unreachable(mesh: str, url: str, error: str | None) -> dict[str, str]:
    """A warning: no signaling node answers; rounds go on over the links that are there."""
    why = f" ({error})" if error else ""
    return {
        "text": f"mesh {mesh}: signaling {url} does not answer{why}; trying again, links that are up stay up",
        "try": "is it running, and the port open? discod mesh show",
    }


def last_errors(peers: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """A warning for every member that cannot be reached: its name and the last error."""
    return [{"text": f"peer {name} cannot be reached: {why}", "try": "discod peers"} for name, why in peers]
