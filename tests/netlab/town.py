"""A crew whose peers live in the lab: daemons behind NAT boxes or on the street, a signaling node in reach of all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.faults.crew import STAND_IN, Crew, Peer, open_crew
from tests.netlab.lab import Lab, open_lab

NODE, NODE_PORT, PEER_PORT = "node", 8765, 7340
LISTEN = f"[::]:{PEER_PORT}"


class Town:
    """The network and the people."""

    def __init__(self, lab: Lab, crew: Crew) -> None:
        self.lab, self.crew = lab, crew

    def settle(self, *, homes: str = "", reachable: str = "", street: str = "") -> list[Peer]:
        """Peers behind boxes, behind boxes with an open port, and on the street; the first by name makes the mesh."""
        node = self.lab.host(NODE)
        self.crew.open_node(f"{node.address}:{NODE_PORT}")
        for name in homes:
            self.lab.home(name)
        for name in reachable:
            self.lab.home(name, PEER_PORT)
        for name in street:
            self.lab.host(name)
        names = sorted(homes + reachable + street)
        return [self.crew.add(name, LISTEN, f"digits:{number}/{len(names)}") for number, name in enumerate(names, 1)]

    def paths(self, peer: Peer) -> dict[str, str]:
        """How a peer is linked with the others."""
        return {other["name"]: other["path"] for other in peer.client.get("/v1/peers") if not other["self"]}


@contextmanager
def open_town(engine: str = STAND_IN) -> Iterator[Town]:
    """A town that is gone after the block: first the daemons, which take leave, then the network."""
    with open_lab() as lab, open_crew(engine, lambda name: lab.hosts[name].words) as crew:
        yield Town(lab, crew)
