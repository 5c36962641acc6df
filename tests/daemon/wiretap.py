"""Every byte that a link sends, before it is encrypted, and every byte that a socket sends; and what a row looks like.

A row is looked for in every form that code could give it by mistake: its own type and others, either byte order, scaled
as the model sees it, as numbers in text, in hexadecimal. A few neighbouring values are enough to find it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import trio
from numpy.typing import NDArray

from discod.p2p.transport import HEADER, Buffer, TlsStream
from discod.train.datasets import normalised
from discod.train.task import DataSpec

WINDOW_BYTES, WINDOW_VALUES = 12, 4  # at least, of neighbouring values in binary: not there by chance
TEXT_VALUES = 8  # neighbouring numbers in text
TYPES = ("u1", "f2", "<f4", ">f4", "<f8", ">f8", "<i4", ">i4", "<i8", ">i8", "<u2", ">u2")


class Wiretap:
    """Attached to all streams of this process."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.links: dict[TlsStream, bytearray] = defaultdict(bytearray)
        self.sockets: dict[trio.SocketStream, bytearray] = defaultdict(bytearray)
        send_parts, send_all = TlsStream.send_parts, trio.SocketStream.send_all

        async def parts_sent(stream: TlsStream, *parts: Buffer) -> None:
            for part in parts:
                self.links[stream] += part
            await send_parts(stream, *parts)

        async def all_sent(stream: trio.SocketStream, data: Any) -> None:
            self.sockets[stream] += data
            await send_all(stream, data)

        patch.setattr(TlsStream, "send_parts", parts_sent)
        patch.setattr(trio.SocketStream, "send_all", all_sent)

    def everything(self) -> list[bytes]:
        """What each stream sent, in order."""
        return [bytes(sent) for sent in (*self.links.values(), *self.sockets.values())]

    def kinds(self) -> dict[int, int]:
        """Bytes of whole frames by their kind, over all links."""
        counts: dict[int, int] = defaultdict(int)
        for sent in self.links.values():
            for kind, size in frames(sent):
                counts[kind] += size
        return dict(counts)


def frames(sent: bytearray) -> Iterator[tuple[int, int]]:
    """Kind and size, header included, of each whole frame of one stream."""
    start = 0
    while start + HEADER.size <= len(sent):
        length, kind = HEADER.unpack_from(sent, start)
        end = start + HEADER.size - 1 + length
        if end > len(sent):
            return  # the stream was closed in the middle of it
        yield kind, end - start
        start = end


def traces(row: NDArray[Any], spec: DataSpec) -> dict[bytes, str]:
    """Bytes that nothing but this row (*shape) explains -> the form they are a part of."""
    found: dict[bytes, str] = {}
    flat, scaled = row.reshape(-1), normalised(row[None], spec).reshape(-1)
    for name, values in (("as stored", flat), ("scaled", scaled)):
        for type_ in TYPES:
            for window in _windows(values, type_):
                found[window] = f"{name} as {type_}"
                found[window.hex().encode()] = f"{name} as {type_} in hexadecimal"
        for separator in (",", ", ", " ", "\n"):
            for start in range(len(values) - TEXT_VALUES + 1):
                text = separator.join(map(str, values[start : start + TEXT_VALUES].tolist()))
                found[text.encode()] = f"{name} as text"
    return found


def _windows(values: NDArray[Any], type_: str) -> Iterator[bytes]:
    """Neighbouring values in another type, unless they are lost in it."""
    with np.errstate(all="ignore"):
        cast = values.astype(type_)
    count = max(WINDOW_VALUES, -(-WINDOW_BYTES // cast.itemsize))
    for start in range(len(cast) - count + 1):
        window = cast[start : start + count]
        if len(np.unique(window)) >= WINDOW_VALUES - 1:
            yield window.tobytes()


def seen(marks: dict[bytes, str], streams: list[bytes]) -> set[str]:
    """The forms in which a row occurs in what was sent."""
    return {form for trace, form in marks.items() if any(trace in sent for sent in streams)}
