"""Finding out where the others stand, and fetching the certified state to stand on.

i -> j   Ask            j stands on a state that i does not know
j -> i   State          j's certificates, oldest first
i -> j   Ask{state}     i has verified them and wants that state
j -> i   snapshot       as bulk; only the immutable certified base is ever served
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from discod.p2p import effects as fx
from discod.p2p.chain import Chain
from discod.p2p.rules import Rules
from discod.p2p.voice import Voice
from discod.wire.codec import decode, encode
from discod.wire.rounds import NO_RID, Ask, Head, Links, State, head_decoder, head_hash

ASK_SECONDS = 1.0  # between two questions to one peer
FETCH_SECONDS = 30.0  # for a snapshot, plus three times its expected time


@dataclass(frozen=True, slots=True)
class _Fetching:
    peer: bytes
    state: bytes
    until: float


class Standing:
    """Where I stand (`chain`), whom I have asked, and what I am fetching."""

    def __init__(self, rules: Rules, chain: Chain, voice: Voice, entropy: Callable[[int], bytes]) -> None:
        self.chain = chain
        self.fetching: _Fetching | None = None
        self.wake = math.inf
        self._rules, self._voice, self._entropy = rules, voice, entropy
        self._asked: dict[bytes, float] = {}
        self._patience = math.inf  # with those that are ahead of me while my attempt runs

    def lost(self, peer: bytes) -> None:
        self._asked.pop(peer, None)
        if self.fetching is not None and self.fetching.peer == peer:
            self.fetching = None

    def on_ask(self, peer: bytes, ask: Ask, links: Links | None) -> None:
        """Serve the snapshot of my base, or show how I came to stand on it."""
        if ask.state == self.chain.base_hash and self.chain.base.round > 0:
            self._voice.out.append(fx.SendSnapshot(peer, ask.state))
            return
        headers = self.chain.headers_after(links.base if links is not None else NO_RID)
        seq = self._voice.next_seq()
        self._voice.tell(peer, State(seq, headers, encode(self.chain.base)), seq)

    def on_state(self, peer: bytes, state: State) -> None:
        """Raises Refused or Broken when a certificate does not verify; nothing is kept then."""
        head: Head = decode(head_decoder, state.head)
        if head.round > 0:
            rules = self._rules
            self.chain.learn(state.headers, head, rules.scope, self._voice.keyring, rules.majority)
            if self.fetching is not None and self.fetching.peer == peer and self.fetching.state != head_hash(head):
                self.fetching = None  # it has moved on and serves that state no more

    def settle(self, positions: Mapping[bytes, Links], now: float) -> None:
        """Ask about what is unknown; fetch the best state in sight when it is not the base."""
        self.wake = self._patience = math.inf
        for peer in sorted(positions):
            self._ask_about(peer, positions[peer], now)
        bases = {peer: links.base for peer, links in positions.items()}
        target = self.chain.choose({**bases, self._voice.keyring.me: self.chain.base_hash})
        if target == self.chain.base_hash:
            self.fetching = None
        else:
            self._fetch(target, sorted(p for p, base in bases.items() if base == target), now)

    def watch(self, positions: Mapping[bytes, Links], now: float) -> None:
        """In a running attempt, fetch nothing; but who stays ahead may have the certificate whose Dones I missed."""
        self.wake = math.inf
        ahead = [peer for peer, links in sorted(positions.items()) if links.round > self.chain.base.round]
        self._patience = min(self._patience, now + ASK_SECONDS) if ahead else math.inf
        if now < self._patience:
            self.wake = self._patience
            return
        for peer in ahead:
            self._ask_about(peer, positions[peer], now)

    def _ask_about(self, peer: bytes, links: Links, now: float) -> None:
        chain, state = self.chain, links.base
        if state == chain.base_hash or links.round == 0 or state in chain.heads:
            return
        if state in chain.path(chain.base_hash):
            return
        again = self._asked.get(peer, -math.inf) + ASK_SECONDS
        if now >= again:
            self._asked[peer] = now
            again = now + ASK_SECONDS
            seq = self._voice.next_seq()
            self._voice.tell(peer, Ask(seq, b""), seq)
        self.wake = min(self.wake, again)

    def _fetch(self, target: bytes, holders: list[bytes], now: float) -> None:
        if self.fetching is None or now >= self.fetching.until:
            if not holders or target not in self.chain.heads:
                return
            peer = holders[int.from_bytes(self._entropy(2), "little") % len(holders)]
            self.fetching = _Fetching(peer, target, now + FETCH_SECONDS + 3 * self._rules.bulk)
            self._voice.out.append(fx.Fetch(peer, self.chain.heads[target]))
            seq = self._voice.next_seq()
            self._voice.tell(peer, Ask(seq, target), seq)
        self.wake = min(self.wake, self.fetching.until)
