"""What an attempt is about, and its clocks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

HAVE_SECONDS = 9.0  # a roster member that has not answered by then is out of the attempt
RELINK_SECONDS = 3.0  # a lost link may come back within this
LEAST_STRAGGLE_SECONDS = 2.0
VIEW_SECONDS = 5.0  # the first view, from the end of the straggle; doubled for each further one
VIEWS = 4
MOVE_SECONDS = 4.0  # a chunk without its Sum this long after t Consents moves to the next owner
CERTIFY_SECONDS = 30.0
RESEND_SECONDS = 1.0  # a refused bulk transfer is tried again after this


class Phase(Enum):
    """How far this peer is in the attempt."""

    ANSWERED = "answered"
    SHARED = "shared"  # my Manifest is out: the update is spent
    CONSENTED = "consented"
    OPENED = "opened"  # t Consents seen
    SIGNED = "signed"  # my Done is out
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Terms:
    """What an attempt is about: fixed by the roster, equal on all its peers (but for the clocks)."""

    rid: bytes
    me: bytes
    roster: tuple[bytes, ...]  # sorted by PeerId
    leader: bytes
    threshold: int
    sizes: tuple[int, ...]  # words per chunk, in owner order; 0: the chunk causes no messages
    straggle: float  # seconds
    bulk: float  # expected seconds to move one vector
    witness: bool = False  # two peers sum each chunk, and must agree


@dataclass(slots=True)
class Clocks:
    """Absolute deadlines on the caller's clock; inf while they do not run."""

    have: float = math.inf
    straggle: float = math.inf
    view: float = math.inf
    consents: float = math.inf
    certify: float = math.inf
    move: float = math.inf
    resend: float = math.inf
    links: dict[bytes, float] = field(default_factory=dict)  # peer without a link -> when it counts as gone

    def next(self) -> float:
        return min(
            self.have,
            self.straggle,
            self.view,
            self.consents,
            self.certify,
            self.move,
            self.resend,
            *self.links.values(),
        )
