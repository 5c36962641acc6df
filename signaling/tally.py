"""What a node counts, and how Prometheus reads it (its text format, 0.0.4). Pure.

No label names a peer, a mesh or an address: a reason or a result is one of our own words, so there are few.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from discod import __version__
from discod.wire.signaling import Denied, Room
from signaling.lobby import Close, Effect, Tell

PREFIX = "discod_signaling_"
RATE_LIMITS = frozenset(
    {
        "busy",
        "quota",
        "relay-busy",
        "relay-quota",
        "room-full",
        "too-many-connections",
        "too-many-joins",
        "too-many-messages",
        "too-many-relays",
    }
)


class Family(NamedTuple):
    """One metric: samples by the value of `label`, or one sample under the empty string."""

    name: str
    kind: str
    says: str
    samples: Mapping[str, float]
    label: str = ""


NONE: Mapping[str, int] = {}


class Tally:
    """Since the start."""

    def __init__(self) -> None:
        self.joins: Counter[str] = Counter()  # by result
        self.refusals: Counter[str] = Counter()  # by the code of Denied
        self.reloads: Counter[str] = Counter()  # by result
        self.relayed_bytes = self.queue_drops = self.handshakes = 0
        self.handshake_seconds = 0.0

    def join(self, guest: int, effects: Iterable[Effect]) -> bool:
        """Count what came of a Join; whether the guest is in now that was not before."""
        said: list[object] = []
        for effect in effects:
            if isinstance(effect, Tell | Close) and effect.guest == guest:
                said.append(effect.message if isinstance(effect, Tell) else effect.denied)
        refused = next((each.code for each in said if isinstance(each, Denied)), None)
        entered = any(isinstance(each, Room) for each in said)
        if refused or entered:
            self.joins[refused or "joined"] += 1
        return entered

    def handshake(self, seconds: float) -> None:
        """TLS and WebSocket are open."""
        self.handshakes += 1
        self.handshake_seconds += seconds

    def families(
        self,
        now: Mapping[str, int],
        totals: Mapping[str, int],
        pushes: Mapping[str, int],
        denied: Mapping[str, int] = NONE,
    ) -> list[Family]:
        """All metrics: gauges and totals by name, `pushes` to buffers by result, visits `denied` by reason."""
        refusals = self.refusals + Counter(denied)
        limited = sum(count for code, count in (refusals + Counter(pushes)).items() if code in RATE_LIMITS)
        return [
            Family("discod_build_info", "gauge", "The version that runs.", {__version__: 1}, "version"),
            *(Family(PREFIX + name, "gauge", SAYS[name], {"": value}) for name, value in now.items()),
            *(_counter(name, SAYS[name], {"": value}) for name, value in totals.items()),
            _counter("joins", "Joins by result.", self.joins, "result"),
            _counter("refusals", "Messages and guests refused by name.", refusals, "reason"),
            _counter("ratelimited", "Refusals for asking too much.", {"": limited}),
            _counter("relay_bytes", "Bytes relayed, each once.", {"": self.relayed_bytes}),
            _counter("send_queue_drops", "Guests dropped because they did not read.", {"": self.queue_drops}),
            _counter("reloads", "Readings of limits and certificates at run time.", self.reloads, "result"),
            _counter("buffer_pushes", "Updates pushed to federated buffers.", pushes, "result"),
            Family(
                PREFIX + "handshake_seconds",
                "summary",
                "From the connection to the open WebSocket.",
                {"_sum": self.handshake_seconds, "_count": self.handshakes},
            ),
        ]


SAYS = {
    "sessions": "WebSockets that are open.",
    "connections": "Connections, those in their handshakes too.",
    "turned_away": "Connections closed unheard since the start.",
    "rooms": "Meshes with somebody present.",
    "peers": "Peers that are present.",
    "relays": "Pairs that are relayed.",
    "draining": "1 while the node is going down.",
    "buffers": "Federated buffers that are open.",
    "buffer_visitors": "Peers at federated buffers.",
    "buffer_waiting_updates": "Updates that wait for the next version.",
    "buffer_versions": "Versions made since the start.",
}


def _counter(name: str, says: str, samples: Mapping[str, float], label: str = "") -> Family:
    return Family(f"{PREFIX}{name}_total", "counter", says, samples, label)


def exposition(families: Iterable[Family]) -> str:
    """The text that /metrics answers."""
    lines = []
    for name, kind, says, samples, label in families:
        lines += [f"# HELP {name} {says}", f"# TYPE {name} {kind}"]
        for key, value in sorted(samples.items()):
            lines.append(f'{name}{{{label}="{_escaped(key)}"}} {value}' if label else f"{name}{key} {value}")
    return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
