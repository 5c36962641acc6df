"""A stage (stage.py) of secure sums whose updates are real words as well, and whose peers can vanish at any moment.

Beside its tokens every update is a vector, encoded by the codec under the masks that its machine handed out. Whenever
any machine asks its shell to sum, the masked words are summed and opened, and compared with the plain ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from discod import ring
from discod.masks import Masks
from discod.p2p import effects as fx
from discod.wire.rounds import Consent, Receipt, Unmask, parse_envelope
from tests.p2p.stage import Actor, Stage
from tests.p2p.tokens import Tokens

DYING_SECONDS = 0.2  # from the last word to the end of the links: what was said before still arrives
CODEC_BOUND = 0.5
BEFORE = {"shares": fx.Open, "start": fx.Contribute, "owner": fx.Combine}
AFTER = {"receipt": Receipt.kind, "consent": Consent.kind, "unmask": Unmask.kind}
MOMENTS = (*BEFORE, "half", "pieces", *AFTER)  # half of the own pieces, all of them


class Update(NamedTuple):
    """What one peer contributes under one round id."""

    vector: ring.Floats  # (d,)
    weight: int
    plain: ring.Words  # (d + 1,)
    masked: ring.Words  # (d + 1,)


def contribution(values: np.random.Generator, base: ring.Floats, codec: ring.Codec, masks: Masks | None) -> Update:
    """Random, some of it beyond the bound."""
    local = base + values.normal(0, codec.bound / 2, base.size).astype(np.float32)
    weight = int(values.integers(1, ring.FULL_WEIGHT + 1))
    plain, masked = np.empty((2, base.size + 1), np.uint32)
    ring.encode(local, base, codec, weight, plain)
    ring.encode(local, base, codec, weight, masked, masks)
    return Update(local - base, weight, plain, masked)


def mean_error(codec: ring.Codec, base: ring.Floats, updates: list[Update], total: ring.Words) -> tuple[float, float]:
    """How far the mean that a sum gives is from the true one, and how far it may be: a half step of the codec for each
    update, and the roundings of float32.
    """
    shares = np.array([update.weight for update in updates], np.float64) / ring.FULL_WEIGHT
    scaled = shares[:, None] * np.array([update.vector for update in updates], np.float64)
    true, out = np.clip(scaled, -codec.bound, codec.bound).sum(axis=0) / shares.sum(), np.empty_like(base)
    ring.apply_mean(base, total, codec, out)
    rounding = 2.0**-22 * (codec.bound + float(np.abs(base).max(initial=0)))
    allowed = len(updates) / 2 / codec.scale / float(shares.sum()) + rounding
    return float(np.abs(out - (base + true)).max(initial=0)), allowed


class Mortal(Actor):
    """Says nothing more from a moment on, and is gone a little later; or after so many messages, and starts again."""

    dies = ""  # one of MOMENTS
    mute = False
    pieces_sent = 0
    last = b""  # what it says last
    restarts_after = 0  # messages; 0: never
    restarted = math.inf  # when

    def __init__(self, stage: MaskedStage, peer: bytes) -> None:
        super().__init__(stage, peer)
        self.spoken: set[bytes] = set()  # envelopes

    def perform(self, effects: list[fx.Effect]) -> None:
        for effect in effects:
            if not self.mute and self._is_too_late(effect):
                self._vanish()
            if not self.mute:
                self._perform(effect)
                self._note(effect)
        enough = 0 < self.restarts_after <= len(self.spoken)
        if not self.mute and (self.last or enough or (self.dies == "pieces" and self._shared)):
            self._vanish()
        self.stage.schedule_tick(self)

    @property
    def _chunks(self) -> int:
        attempt = self.running.attempt
        return len(attempt.owners.chunks) if attempt is not None else 0

    @property
    def _shared(self) -> bool:
        return self.pieces_sent >= self._chunks > 0

    def _is_too_late(self, effect: fx.Effect) -> bool:
        if isinstance(effect, fx.Send) and len(self.spoken) == self.restarts_after > 0:
            return effect.signed.envelope not in self.spoken
        if self.last:
            return not isinstance(effect, fx.Send) or effect.signed.envelope != self.last
        if isinstance(effect, fx.SendPiece) and self.dies == "half":
            return self.pieces_sent >= self._chunks // 2
        return isinstance(effect, BEFORE.get(self.dies, ()))

    def _note(self, effect: fx.Effect) -> None:
        if isinstance(effect, fx.SendPiece):
            self.pieces_sent += 1
        if isinstance(effect, fx.Send):
            self.spoken.add(effect.signed.envelope)
            if self._shared and parse_envelope(effect.signed).kind == AFTER.get(self.dies):
                self.last = effect.signed.envelope

    def _vanish(self) -> None:
        self.mute = True
        self.stage.after(DYING_SECONDS, self._end)

    def _end(self) -> None:
        self.stage.crash(self.peer)
        if self.restarts_after:
            self.mute, self.restarts_after, self.restarted = False, 0, self.stage.now
            self.boot()


class MaskedStage(Stage):
    """`d` values in each update; all are in the first roster."""

    def __init__(self, peers: int, seed: int, d: int) -> None:
        super().__init__(peers, seed, peers, d + 1, secure=True)
        self.mortals = {peer: Mortal(self, peer) for peer in self.peers}
        self.actors = dict(self.mortals)
        self.hosts.update(self.mortals)
        self.seed, self.values = seed, np.random.default_rng(seed)
        self.base: ring.Floats = self.values.normal(size=d).astype(np.float32)
        self.updates: dict[tuple[bytes, bytes], Update] = {}  # (rid, peer)
        self.sums: list[tuple[bytes, frozenset[bytes]]] = []  # (rid, U) of all that were opened
        self.inputs: list[tuple[bytes, bytes, Tokens]] = []  # (peer, rid, what its masked words stand for)

    def codec(self, rid: bytes) -> ring.Codec:
        return ring.Codec(next(len(e.roster) for _, e in self.openings(0.0) if e.rid == rid), CODEC_BOUND)

    def mask(self, rid: bytes, peer: bytes, masks: Masks | None) -> None:
        super().mask(rid, peer, masks)
        self.inputs.append((peer, rid, frozenset(self.actors[peer].update)))
        self.updates[rid, peer] = contribution(self.values, self.base, self.codec(rid), masks)

    def check_opening(self, rid: bytes, included: Iterable[bytes], opening: Masks | None) -> None:
        """The sum that comes out is the sum of the encodings, word for word, whoever sums it."""
        super().check_opening(rid, included, opening)
        updates, codec = [self.updates[rid, peer] for peer in included], self.codec(rid)
        total = np.empty_like(updates[0].plain)
        for start, stop in ring.chunk_bounds(total.size, codec.peers):
            ring.combine([update.masked[start:stop] for update in updates], total[start:stop], start, opening)
        assert np.array_equal(total, sum(update.plain for update in updates))
        assert ring.check_bound(total[:-1], codec, len(updates))
        off, allowed = mean_error(codec, self.base, updates, total)
        assert off <= allowed
        self.sums.append((rid, frozenset(included)))
