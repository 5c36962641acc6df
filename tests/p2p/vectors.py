"""The test vectors of docs/protocol.md for messages and names: one secure round of three peers, made from fixed bytes.

Everything is drawn from one stream: call k for n bytes gives the first n of SHAKE-256("discod/vectors" | k), k counting
from 0 as 4 bytes little-endian. `python -m tests.p2p.vectors` writes vectors.json anew and prints what the page shows.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256, shake_256
from itertools import count
from pathlib import Path

import numpy as np

from discod import ring
from discod.identity import Identity, seal
from discod.p2p.certificate import (
    bitmap,
    consent_hash,
    era_of,
    manifests_hash,
    rid_of,
    scope_of,
    threshold_of,
)
from discod.p2p.secagg import Secrets, SecureSum
from discod.wire import rounds as wire
from discod.wire.codec import digest, encode
from discod.wire.rounds import NO_RID, Message, Signed, head_hash, make_envelope, message_hash

FILE = Path(__file__).parent / "vectors.json"
MESH, TASK, MEMBERS = b"\x11" * 32, b"\x22" * 32, b"\x33" * 32
SCOPE = scope_of(MESH, TASK)
D, BOUND, WEIGHT = 19, 0.25, 40000  # the update of the vectors of masks: local[k] = k/16 - 1/2, base[k] = 1/32
COMPLETE = b"\x07"


def drawing() -> Callable[[int], bytes]:
    calls = count()
    return lambda size: shake_256(b"discod/vectors" + next(calls).to_bytes(4, "little")).digest(size)


class Made:
    """`names` and `messages`, in the order of a round."""

    def __init__(self) -> None:
        self.names: dict[str, bytes] = {}
        self.messages: dict[str, Signed] = {}
        people = sorted((Identity.from_seed(bytes([n]) * 32) for n in (1, 2, 3)), key=lambda who: who.peer_id)
        self.people = {who.peer_id: who for who in people}
        self.roster = tuple(self.people)
        self.me, self.you, self.third = self.roster
        self.entropy, self.threshold = drawing(), threshold_of(3)
        self._call()
        self._start()
        self._share()
        self._agree()
        self._certify()

    def _say(self, sender: bytes, body: Message, rid: bytes, slot: int = 0) -> Signed:
        """The first of each kind is the vector."""
        signed = seal(self.people[sender], make_envelope(SCOPE, rid, sender, body, slot))
        self.messages.setdefault(body.kind, signed)
        return signed

    def _call(self) -> None:
        base = np.full(D, 1 / 32, np.float32)
        self.head = wire.Head(SCOPE, 0, bytes(32), BOUND, ring.hash_floats(base))
        state = head_hash(self.head)
        self.era = era_of(SCOPE, 0, state)
        self.secrets = {peer: Secrets(self.entropy) for peer in self.roster}
        self.keys = {peer: secrets.public for peer, secrets in self.secrets.items()}
        lost = ((self.you, 1),)
        self.adverts = tuple(
            self._say(peer, wire.Advert(7, bytes([n]) * 16, 0, state, MEMBERS, lost, self.keys[peer]), self.era, 7)
            for n, peer in enumerate(self.roster, 1)
        )
        self.rid = rid_of(self.era, self.adverts, self.threshold)
        self._say(self.me, wire.Links(8, (self.you, self.third), 0, state, True), NO_RID, 8)
        self._say(self.me, wire.Roster(self.adverts), self.rid)
        self.names |= {"scope": SCOPE, "state 0": state, "era": self.era, "rid": self.rid}

    def _start(self) -> None:
        shape = (self.rid, self.roster, self.threshold)
        rid, roster, t = shape
        self.sums = {p: SecureSum(rid, p, roster, t, self.secrets[p], self.keys, self.entropy) for p in roster}
        for dealer, side in self.sums.items():
            for receiver, box in side.boxes():
                self._say(dealer, wire.Shares(box), self.rid, self.roster.index(receiver))
                self.sums[receiver].take_box(dealer, box)
        haves = tuple(self._say(peer, wire.Have(COMPLETE), self.rid, 0) for peer in self.roster)
        self._say(self.me, wire.Start(COMPLETE, haves), self.rid)
        for side in self.sums.values():
            side.begin(self.roster)
        mine = self.sums[self.me]
        self.start = mine.start
        self.names |= {
            "u1h": self.start,
            "box key": mine._box_key(self.you, self.me, self.you),
            "self key": mine.masks().plus[0],
            "pair key": mine.masks().plus[1],
        }

    def _share(self) -> None:
        k, base = np.arange(D, dtype=np.float32), np.full(D, 1 / 32, np.float32)
        self.words, manifests = {}, []
        for peer, side in self.sums.items():
            self.words[peer] = words = np.empty(D + 1, "<u4")
            local = k / np.float32(16) - np.float32(0.5)
            encoded = ring.encode(local, base, ring.Codec(3, BOUND), WEIGHT, words, side.masks())
            manifests.append(self._say(peer, wire.Manifest(self.start, encoded.hashes), self.rid))
        self.manifests = tuple(manifests)
        pieces = tuple(zip(self.roster[1:], map(message_hash, manifests[1:]), strict=True))
        self.receipt = self._say(self.me, wire.Receipt(0, pieces), self.rid, 1)
        self.names["masked words"] = self.words[self.me].tobytes()

    def _agree(self) -> None:
        mh = manifests_hash(map(message_hash, self.manifests))
        self.uh = consent_hash(self.rid, self.start, COMPLETE, mh)
        offer = self._say(self.me, wire.Propose(0, COMPLETE, mh, b"\x00", (*self.manifests, self.receipt)), self.rid)
        self._say(self.me, wire.Reassign(0, bitmap([self.third], self.roster)), self.rid)
        consents = tuple(self._say(peer, wire.Consent(self.uh), self.rid) for peer in self.roster)
        self._say(self.you, wire.View(1, consents[1], offer), self.rid, 1)
        shown = {peer: side.shares_for(self.roster) for peer, side in self.sums.items()}
        self._say(self.me, wire.Unmask(self.uh, shown[self.me], offer, consents), self.rid)
        for peer, shares in shown.items():
            self.sums[self.me].show(peer, shares)
        self.names |= {"mh": mh, "uh": self.uh}

    def _certify(self) -> None:
        total, base = np.empty(D + 1, "<u4"), np.full(D, 1 / 32, np.float32)
        opening = self.sums[self.me].opening(self.roster)
        for chunk, (a, b) in enumerate(ring.chunk_bounds(D + 1, 3)):
            hash_ = ring.combine([words[a:b] for words in self.words.values()], total[a:b], a, opening)
            self._say(self.me, wire.Sum(self.uh, chunk, hash_), self.rid, chunk)
        self.names["sum"] = total.tobytes()
        applied = ring.apply_mean(base, total, ring.Codec(3, BOUND), base)
        head = wire.Head(SCOPE, 1, head_hash(self.head), applied.next_bound, applied.hash)
        state = head_hash(head)
        dones = tuple(self._say(peer, wire.Done(state), self.rid) for peer in self.roster)
        certificate = wire.Certificate(1, head_hash(self.head), state, self.adverts, self.threshold, dones)
        self._say(self.me, wire.Leave("another base"), self.rid)
        self._say(self.you, wire.Ask(9, state), NO_RID, 9)
        self._say(self.me, wire.State(10, (certificate,), encode(head)), NO_RID, 10)
        second = self._say(self.third, wire.Consent(digest("discod/vectors", b"another sum")), self.rid)
        first = self._say(self.third, wire.Consent(self.uh), self.rid)
        self._say(self.me, wire.Proof(first, second), NO_RID, 11)
        self.names |= {"head 1": encode(head), "state 1": state, "certificate": sha256(encode(certificate)).digest()}

    def as_json(self) -> dict[str, dict[str, str]]:
        messages = {kind: signed.envelope.hex() + signed.signature.hex() for kind, signed in self.messages.items()}
        return {"names": {name: value.hex() for name, value in self.names.items()}, "messages": messages}


def page(made: Made) -> list[str]:
    """The lines of docs/protocol.md."""
    lines = [f"peer {n}       {peer.hex()}" for n, peer in enumerate(made.roster)]
    for name, value in made.names.items():
        lines += [f"{name if not at else '':13}{value.hex()[at : at + 96]}" for at in range(0, 2 * len(value), 96)]
    lines += [f"{kind:13}{message_hash(signed).hex()}" for kind, signed in made.messages.items()]
    whole = made.messages["consent"]
    for name, octets in (("envelope", whole.envelope), ("signature", whole.signature)):
        text = octets.hex()
        lines += [f"{name if not at else '':13}{text[at : at + 96]}" for at in range(0, len(text), 96)]
    return lines


if __name__ == "__main__":
    fresh = Made()
    FILE.write_text(json.dumps(fresh.as_json(), indent=1) + "\n")
    print("\n".join(page(fresh)))
