"""From an answered roster to the set that starts.

For `mean` the whole roster starts at once: a Have says that its sender answers this roster. For the secure sum every
peer first deals its shares to all others; its Have names those whose shares it holds; the leader's Start names a set
U1, each of which holds the shares of all of it. Only after that may anything masked leave.

    i -> j         Shares
    i -> all       Have{whose shares I hold}      at once when complete, else after a while and again at every change
    leader -> all  Start{U1, Haves}               at once when everybody alive is complete, else after a while
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from discod.errors import Refused
from discod.p2p.certificate import bitmap, from_bitmap
from discod.p2p.secagg import SecureSum
from discod.p2p.terms import Terms
from discod.wire.rounds import Envelope, Have, Message, Shares, Signed, Start, parse_body

PARTIAL_HAVE_SECONDS = 2.0  # then a Have goes out although shares are missing
PARTIAL_START_SECONDS = 4.0  # then the leader starts with what is complete

Say = Callable[[Message, int], None]
SayTo = Callable[[bytes, Message, int], None]


class Starting:
    """The start of one attempt; `started` is the set once it is known."""

    def __init__(self, terms: Terms, secure: SecureSum | None, now: float) -> None:
        self.secure = secure
        self.started: frozenset[bytes] = frozenset(terms.roster) if secure is None else frozenset()
        self.wake = math.inf
        self._terms = terms
        self._haves: dict[bytes, tuple[int, frozenset[bytes], Signed]] = {}  # slot, whose shares it holds
        self._said: frozenset[bytes] = frozenset()
        self._slot = 0
        self._partial_have, self._partial_start = now + PARTIAL_HAVE_SECONDS, now + PARTIAL_START_SECONDS

    def begin(self, say: Say, say_to: SayTo) -> None:
        """The first messages of the attempt."""
        if self.secure is None:
            say(Have(b""), 0)
            return
        for peer, box in self.secure.boxes():
            say_to(peer, Shares(box), self._terms.roster.index(peer))

    def check(self, envelope: Envelope, body: Message, check: Callable[[Signed], Envelope]) -> None:
        """Whether a Shares, Have or Start fits this roster. Raises: Refused, Broken; nothing is kept."""
        sender, slot = envelope.sender, envelope.slot
        match body:
            case Shares() if self.secure is not None:
                fits = slot == self._terms.roster.index(self._terms.me) and sender in self._terms.roster
                if fits:
                    self.secure.open_box(sender, body.box)
            case Have() if self.secure is not None:
                fits = slot >= 0 and sender in from_bitmap(body.bitmap, self._terms.roster)
            case Have():
                fits = slot == 0 and not body.bitmap
            case Start() if self.secure is not None:
                fits = slot == 0 and sender == self._terms.leader
                self._check_start(body, check)
            case _:
                fits = False
        if not fits:
            raise Refused(sender, f"a {envelope.kind} that does not fit this round")

    def _check_start(self, start: Start, check: Callable[[Signed], Envelope]) -> None:
        started = from_bitmap(start.started, self._terms.roster)
        if len(started) < self._terms.threshold:
            raise Refused(None, f"a start of {len(started)}, {self._terms.threshold} are needed")
        complete = set()
        for signed in start.haves:
            envelope = check(signed)
            body = parse_body(envelope)
            if envelope.rid != self._terms.rid or not isinstance(body, Have):
                raise Refused(None, "a start with evidence of another kind or round")
            if started <= from_bitmap(body.bitmap, self._terms.roster):
                complete.add(envelope.sender)
        if not started <= complete:
            raise Refused(None, "a start without the Haves of all it names")
        if self.secure is not None and self._terms.me in started and not started <= self.secure.held:
            raise Refused(None, "a start with peers whose shares I have never said to hold")

    def take(self, envelope: Envelope, body: Message, signed: Signed) -> None:
        """Keep a checked message."""
        secure, sender = self.secure, envelope.sender
        if secure is None:
            return
        if isinstance(body, Shares) and not self.started:
            secure.take_box(sender, body.box)
        elif isinstance(body, Have):
            slot, _, _ = self._haves.get(sender, (-1, None, None))
            if envelope.slot > slot:
                self._haves[sender] = envelope.slot, from_bitmap(body.bitmap, self._terms.roster), signed
        elif isinstance(body, Start) and not self.started:
            self._begin_with(from_bitmap(body.started, self._terms.roster))

    def _begin_with(self, started: frozenset[bytes]) -> None:
        """The set is known; a peer outside of it takes no part."""
        assert self.secure is not None
        if self._terms.me in started:
            self.secure.begin(started)
        self.started = started

    def advance(self, alive: Collection[bytes], say: Say, now: float) -> None:
        """Say a Have when it is due; as the leader, start when the facts allow it."""
        self.wake = math.inf
        if self.secure is None or self.started:
            return
        self._say_have(frozenset(alive), say, now)
        if self._terms.me == self._terms.leader:
            self._lead(frozenset(alive), say, now)

    def _say_have(self, alive: frozenset[bytes], say: Say, now: float) -> None:
        assert self.secure is not None
        held = self.secure.held
        if held == self._said:
            return
        if not alive <= held and now < self._partial_have:
            self.wake = min(self.wake, self._partial_have)
            return
        self._said = held
        slot, self._slot = self._slot, self._slot + 1
        say(Have(bitmap(held, self._terms.roster)), slot)

    def _lead(self, alive: frozenset[bytes], say: Say, now: float) -> None:
        complete = self._complete(alive)
        if complete != alive and now < self._partial_start:
            self.wake = min(self.wake, self._partial_start)
        elif len(complete) >= self._terms.threshold:
            haves = tuple(self._haves[peer][2] for peer in self._terms.roster if peer in complete)
            say(Start(bitmap(complete, self._terms.roster), haves), 0)

    def _complete(self, alive: frozenset[bytes]) -> frozenset[bytes]:
        """A set, each of which holds the shares of all of it, by leaving out who misses, or is missed, most."""
        peers = {peer for peer in alive if peer in self._haves}
        while True:
            holds = {peer: self._haves[peer][1] for peer in peers}
            missing = {p: sum((q not in holds[p]) + (p not in holds[q]) for q in peers) for p in peers}
            worst = max(peers, key=lambda p: (missing[p], p), default=None)
            if worst is None or not missing[worst]:
                return frozenset(peers)
            peers.remove(worst)
