"""What left the peers, from their links' own counters: bytes by kind of frame, and by which path. Pure.

A link counts every byte it sends under the kind of its frame. Of the kinds that the wire defines, none has a field for
data: control messages carry ids, hashes and signatures, bulk carries pieces, sums and snapshots of the vector. So a row
could only have left under another kind, and such bytes are counted as rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from typing import Any

from discod.train.task import TaskSpec

KINDS = frozenset({"control", "bulk"})
ITEM_BYTES = {"uint8": 1, "float32": 4}


def raw_rows(task: TaskSpec, links: Iterable[Mapping[str, Any]]) -> int:
    """Rows that the bytes of unknown kinds could hold, over all links of all peers."""
    row_bytes = task.data.features * ITEM_BYTES[task.data.dtype]
    counts: list[dict[str, int]] = [link["bytes_up_by_kind"] for link in links if not link["self"]]
    unknown = sum(count for kinds in counts for kind, count in kinds.items() if kind not in KINDS)
    return ceil(unknown / row_bytes)


def paths(seen: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """ "direct" or "relay" for every pair that is linked, each pair once, in the order of their names."""
    pairs = {
        (min(name, other["name"]), max(name, other["name"])): str(other["path"])
        for name, others in seen.items()
        for other in others
        if other["linked"] and not other["self"]
    }
    return [path for _, path in sorted(pairs.items())]
