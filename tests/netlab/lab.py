"""Hosts in network namespaces: a public street, homes behind NAT boxes, and weather between them.

    namespace `street`: a bridge, 192.0.2.0/24
      |- host         on the street itself, reachable at its address
      `- box -- home  the box masquerades 192.168.1.0/24 and lets in only what belongs to what went out

The part of a host that faces the street is its border: the box of a home, else the host itself. All weather is there:
tc tbf limits what leaves it and what the street sends it; what arrives may be dropped, some of it (loss), from some
(a cut) or all (silence). Nothing is dropped where it leaves: a kernel tells the sender of that. Packets are not
gathered into larger ones, so that one loss is one packet.

Namespaces carry the process id of their test. They go with the lab; what a killed test left goes with the next lab.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PREFIX = "discod-lab"
STREET, HOME = "192.0.2", "192.168.1"  # every home has the addresses that most homes have
TOOLS = ("ip", "tc", "nft")
QUEUE_MS = 50  # of data wait for a slow line, then packets are dropped
BURST_BYTES = 8 * 1540
NAT = f"""
table ip nat {{
  chain out {{
    type nat hook postrouting priority srcnat
    oifname "wan" ip saddr {HOME}.0/24 masquerade
  }}
  chain in {{
    type nat hook prerouting priority dstnat
    %s
  }}
}}
table ip firewall {{
  chain through {{
    type filter hook forward priority filter; policy drop
    ct state established,related accept
    ct status dnat accept
    iifname "lan" accept
  }}
  chain to_me {{
    type filter hook input priority filter; policy drop
    ct state established,related accept
  }}
}}
"""
OPEN_PORT = f'iifname "wan" tcp dport %d dnat to {HOME}.2'
ARRIVALS = "table ip weather { chain arriving { type filter hook prerouting priority raw; }; }\n"
PROBES = (
    "ip link add one type veth peer name other",
    "ip link add bridge type bridge",
    f"tc qdisc add dev one root tbf rate 1mbit burst {BURST_BYTES} latency {QUEUE_MS}ms",
)


def run(*words: str, stdin: str = "") -> str:
    """What a command printed.  Raises: AssertionError with its complaint."""
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr.strip()}\n{stdin}"
    return done.stdout


@dataclass
class Weather:
    """What befalls packets that arrive at a border."""

    loss_permille: int = 0
    silent: bool = False
    cut: frozenset[str] = frozenset()  # addresses that nothing comes from

    def rules(self) -> str:
        """As nft takes them."""
        drops = [f"ip saddr {address} drop" for address in sorted(self.cut)]
        drops += ["drop"] if self.silent else []
        drops += [f"numgen random mod 1000 < {self.loss_permille} drop"] if self.loss_permille else []
        return "\n".join(
            ["flush chain ip weather arriving", *(f"add rule ip weather arriving {drop}" for drop in drops)]
        )


class Host:
    """A machine: where its programs run, and the border that stands for it on the street."""

    def __init__(self, namespace: str, border: str, address: str, port: str) -> None:
        self.namespace, self.border, self.address = namespace, border, address
        self.port = port  # the street's end of its line
        self.weather = Weather()
        self.refresh(ARRIVALS)

    @property
    def words(self) -> tuple[str, ...]:
        """What to put before a command that shall run there."""
        return ("ip", "netns", "exec", self.namespace)

    def refresh(self, *before: str) -> None:
        """Put the weather into force, at one stroke."""
        run("ip", "netns", "exec", self.border, "nft", "-f", "-", stdin="\n".join([*before, self.weather.rules()]))


class Lab:
    """The street and everybody in it."""

    def __init__(self) -> None:
        self.hosts: dict[str, Host] = {}
        self._numbers = itertools.count(10)
        self._street = self._namespace("street")
        run("ip", "-n", self._street, "link", "add", "bridge", "type", "bridge", "forward_delay", "0")
        run("ip", "-n", self._street, "link", "set", "bridge", "up")

    # -- building

    def host(self, name: str, address: str = "") -> Host:
        """A machine that everybody can reach."""
        space, address = self._namespace(name), address or self._address()
        port = self._line(space, address)
        self.hosts[name] = Host(space, space, address, port)
        return self.hosts[name]

    def home(self, name: str, open_port: int = 0) -> Host:
        """A machine behind a NAT box of its own; `open_port` is handed through to it."""
        box, space, address = self._namespace(f"{name}-box"), self._namespace(name), self._address()
        port = self._line(box, address)
        self._join(box, "lan", f"{HOME}.1", space, "wan", f"{HOME}.2")
        run("ip", "-n", space, "route", "add", "default", "via", f"{HOME}.1")
        run("ip", "netns", "exec", box, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        run("ip", "netns", "exec", box, "nft", "-f", "-", stdin=NAT % (OPEN_PORT % open_port if open_port else ""))
        self.hosts[name] = Host(space, box, address, port)
        return self.hosts[name]

    def _address(self) -> str:
        return f"{STREET}.{next(self._numbers)}"

    def _namespace(self, name: str) -> str:
        space = f"{PREFIX}-{os.getpid()}-{name}"
        run("ip", "netns", "add", space)
        run("ip", "-n", space, "link", "set", "lo", "up")
        return space

    def _line(self, border: str, address: str) -> str:
        port = f"port{address.rpartition('.')[2]}"
        self._join(self._street, port, "", border, "wan", address)
        run("ip", "-n", self._street, "link", "set", port, "master", "bridge")
        return port

    def _join(self, one: str, one_end: str, one_address: str, other: str, other_end: str, other_address: str) -> None:
        """A cable between two namespaces."""
        peer = ("peer", "name", other_end, "netns", other)
        run("ip", "-n", one, "link", "add", one_end, "type", "veth", *peer)
        for space, end, address in ((one, one_end, one_address), (other, other_end, other_address)):
            run("ip", "-n", space, "link", "set", end, "gso_max_segs", "1", "up")
            if address:
                run("ip", "-n", space, "address", "add", f"{address}/24", "dev", end)

    # -- weather

    def limit(self, host: Host, mbit: float) -> None:
        """So fast is its line from now on, both ways."""
        for space, device in ((host.border, "wan"), (self._street, host.port)):
            shape = ("rate", f"{round(mbit * 1000)}kbit", "burst", str(BURST_BYTES), "latency", f"{QUEUE_MS}ms")
            run("tc", "-n", space, "qdisc", "replace", "dev", device, "root", "tbf", *shape)

    def lose(self, permille: int) -> None:
        """So many of a thousand packets do not arrive, anywhere."""
        for host in self.hosts.values():
            host.weather.loss_permille = permille
            host.refresh()

    def part(self, *sides: Iterable[str]) -> None:
        """Nothing passes between hosts of different sides."""
        groups = [[self.hosts[name] for name in side] for side in sides]
        for group in groups:
            foreign = frozenset(host.address for other in groups if other is not group for host in other)
            for host in group:
                host.weather.cut = foreign
                host.refresh()

    def silence(self) -> None:
        """Every border drops whatever arrives."""
        for host in self.hosts.values():
            host.weather.silent = True
            host.refresh()

    def clear(self) -> None:
        """Cuts and silence are over."""
        for host in self.hosts.values():
            host.weather.silent, host.weather.cut = False, frozenset()
            host.refresh()


def namespaces() -> Iterator[tuple[str, int]]:
    """All that a lab has made, and the process that did."""
    for line in run("ip", "netns", "list").splitlines():
        if found := re.match(rf"({PREFIX}-(\d+)-\S+)", line):
            yield found[1], int(found[2])


def raze(pid: int) -> None:
    """Remove the namespaces of a process, and whatever still runs in them; another lab may be doing the same."""
    for space in [space for space, owner in namespaces() if owner == pid]:
        inside = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True, check=False)
        for left in inside.stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(left), signal.SIGKILL)
        subprocess.run(["ip", "netns", "delete", space], capture_output=True, check=False)
    assert pid not in {owner for _, owner in namespaces()}


def sweep() -> None:
    """Remove what killed tests have left."""
    for pid in {owner for _, owner in namespaces()}:
        if not Path(f"/proc/{pid}").exists():
            raze(pid)


@contextmanager
def open_lab() -> Iterator[Lab]:
    """A lab that is gone after the block."""
    sweep()
    try:
        yield Lab()
    finally:
        raze(os.getpid())


def why_not() -> str:
    """Why there can be no lab on this machine; empty if there can."""
    if os.geteuid() != 0:
        return "the network lab needs root"
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"the network lab needs {' and '.join(missing)}"
    space = f"{PREFIX}-{os.getpid()}-probe"
    try:
        run("ip", "netns", "add", space)
        for words in PROBES:
            run("ip", "netns", "exec", space, *words.split())
        run("ip", "netns", "exec", space, "nft", "-f", "-", stdin=NAT % "" + ARRIVALS + Weather(1).rules())
    except AssertionError as error:
        return f"this kernel has no network lab: {error}"
    finally:
        raze(os.getpid())
    return ""
