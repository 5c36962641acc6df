"""What n_C colluders see of honest updates: nothing but their sum. Shown by construction, and by statistics.

The construction follows the proof of Bonawitz et al. 2017 (theorem 6.3): for other honest inputs of equal sum there are
other masks under which the colluders see the same bytes. Two steps of that proof are assumptions and not shown here:
that nobody learns a pair key from public keys (X25519, DDH), and that a commitment hides its seed. So the view below
holds all public keys, but the pair key of two honest peers may be any, and the commitment of a peer whose seed is never
opened is left out. The ring is that of integers modulo 64, so that a mask of any value can be found by search.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Mapping
from hashlib import sha256
from itertools import count
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from discod import ring
from discod.masks import Masks
from discod.p2p.certificate import colluders_of
from discod.p2p.secagg import SecureSum
from discod.shamir import SHARE_BYTES, P, split
from tests.p2p.dealers import Dealers

RING = 64
WORDS = 2  # a value, and the weight word
Inputs = dict[bytes, tuple[int, ...]]


class Imagined(SecureSum):
    """One side whose pair keys with some peers are others than its mask key gives."""

    pairs: Mapping[frozenset[bytes], bytes] = {}

    def _pair_key(self, secret: Any, mine: bytes, peer: bytes) -> bytes:
        return self.pairs.get(frozenset((mine, peer))) or super()._pair_key(secret, mine, peer)


class World:
    """Six peers, three of them collude (n_C). Of the others a and b are in U; c vanishes after sending its words."""

    def __init__(self, inputs: Inputs, pairs: Mapping[frozenset[bytes], bytes]) -> None:
        self.dealers, self.inputs = Dealers(6, seed=4, make=Imagined, deal=False), inputs
        *self.colluders, self.a, self.b, self.c = random.Random(1).sample(self.dealers.roster, 6)
        assert len(self.colluders) == colluders_of(6, self.dealers.threshold)
        self.a, self.b = sorted((self.a, self.b))
        self.included = sorted([*self.colluders, self.a, self.b])
        for side in self.dealers.sums.values():
            cast(Imagined, side).pairs = pairs

    def start(self) -> None:
        self.dealers.deal()
        self.dealers.begin()

    def masked(self, peer: bytes) -> list[int]:
        return hidden(self.inputs[peer], self.dealers.sums[peer].masks())

    def view(self, colluders: Collection[bytes]) -> dict[str, Any]:
        """All bytes that these peers have or can compute, if they are the owners of all chunks."""
        d = self.dealers
        for peer in self.included:
            d.show(self.included[0], self.included, [peer])
        opening = d.sums[self.included[0]].opening(self.included)
        words = {peer: self.masked(peer) for peer in d.roster}
        total = [sum(column) for column in zip(*(words[peer] for peer in self.included), strict=True)]
        keys = [(k.mask, k.box, k.commitment if peer != self.c else b"") for peer, k in d.keys.items()]
        own = {peer: (d.secrets[peer].seed, d.secrets[peer].mask.private_bytes_raw()) for peer in colluders}
        return {
            "public": keys,
            "own": own,
            "boxes": {peer: dict(sorted(d.sums[peer]._held.items())) for peer in colluders},
            "masks": {peer: (d.sums[peer].masks().plus, d.sums[peer].masks().minus) for peer in colluders},
            "unmasks": {peer: d.sums[peer].shares_for(self.included) for peer in self.included},
            "opening": (opening.plus, opening.minus),
            "masked": words,
            "sum": hidden(total, opening),
        }


def hidden(words: Collection[int], masks: Masks) -> list[int]:
    made = np.array([word % 2**32 for word in words], np.uint32)
    ring.unmask(made, 0, masks)
    return [int(word) % RING for word in made]


def stream(key: bytes) -> list[int]:
    return hidden([0] * WORDS, Masks((key,), ()))


def found(target: list[int], key_of: Callable[[bytes], bytes] = lambda key: key) -> bytes:
    """A seed whose stream is `target` in the small ring."""
    return next(seed for seed in map(candidate, count()) if stream(key_of(seed)) == target)


def candidate(number: int) -> bytes:
    return sha256(number.to_bytes(8, "little")).digest()


def moved(words: Collection[int], by: Collection[int]) -> tuple[int, ...]:
    return tuple((word + step) % RING for word, step in zip(words, by, strict=True))


def on_one_polynomial(points: dict[int, int], indices: Collection[int]) -> dict[int, bytes]:
    """The shares at these indices of the polynomial through `points` {x: value}."""
    made = {}
    for index in indices:
        x, value = index + 1, 0
        for at, known in points.items():
            above, below = known, 1
            for other in points:
                if other != at:
                    above, below = above * (x - other) % P, below * (at - other) % P
            value = (value + above * pow(below, -1, P)) % P
        made[index] = value.to_bytes(SHARE_BYTES, "big")
    return made


def other_seed(w: World, seed: bytes) -> None:
    """c has another seed, and the colluders the same shares of it."""
    d, side = w.dealers, w.dealers.sums[w.c]
    known = {d.roster.index(peer): int.from_bytes(side._dealt[d.roster.index(peer)][0], "big") for peer in w.colluders}
    points = {0: int.from_bytes(seed, "big"), **{index + 1: value for index, value in known.items()}, 7: 12345}
    assert len(points) == d.threshold
    shares = on_one_polynomial(points, range(6))
    side._dealt = tuple((shares[index], key) for index, (_, key) in enumerate(side._dealt))
    side._held[w.c] = side._dealt[d.roster.index(w.c)]
    d.secrets[w.c].seed = seed


def two_worlds() -> tuple[World, World]:
    """x, and x' of equal sum: a has more, b less, and c, which is in no sum, anything else."""
    one = World({}, {})
    one.inputs = {peer: (7 * n + 3, 11 * n + 1) for n, peer in enumerate(one.dealers.roster)}
    one.start()
    more, any_other = (5, 40), (17, 23)
    pair = one.dealers.sums[one.a]._pair_key(one.dealers.secrets[one.a].mask, one.a, one.b)
    key = found(list(moved(stream(pair), [-step for step in more])))  # a, the lower, adds the stream of the pair
    own = one.dealers.sums[one.c]._seed_key
    seed = found(list(moved(stream(own(one.dealers.secrets[one.c].seed)), [-s for s in any_other])), own)
    other = World(dict(one.inputs), {frozenset((one.a, one.b)): key})
    other.inputs[one.a] = moved(one.inputs[one.a], more)
    other.inputs[one.b] = moved(one.inputs[one.b], [-step for step in more])
    other.inputs[one.c] = moved(one.inputs[one.c], any_other)
    other_seed(other, seed)
    other.start()
    return one, other


def test_other_honest_inputs_of_equal_sum_look_the_same_to_the_colluders_to_the_byte() -> None:
    one, other = two_worlds()
    assert all(one.inputs[peer] != other.inputs[peer] for peer in (one.a, one.b, one.c))
    assert one.view(one.colluders) == other.view(other.colluders)


def test_the_sum_they_see_is_that_of_u() -> None:
    one, _ = two_worlds()
    total = [sum(column) % RING for column in zip(*(one.inputs[peer] for peer in one.included), strict=True)]
    assert one.view(one.colluders)["sum"] == total


def test_one_colluder_more_would_see_which_it_is() -> None:
    """The view holds enough to tell the two apart where they can be told apart: b knows its key with a."""
    one, other = two_worlds()
    assert one.view([*one.colluders, one.b]) != other.view([*other.colluders, other.b])


def test_inputs_of_another_sum_look_different() -> None:
    one, other = two_worlds()
    other.inputs[other.a] = moved(other.inputs[other.a], (1, 0))
    assert one.view(one.colluders)["sum"] != other.view(other.colluders)["sum"]


# Statistics


TENSORS, SIZE = 4, 8192
NOTICED = 5.0  # standard deviations; of some forty independent ones the largest is below 3.5
Values = npt.NDArray[np.float64]
Scheme = Callable[[ring.Floats], Values]


def correlation(seen: Values, secret: Values) -> float:
    """In standard deviations of what independent values would have."""
    return abs(float(np.corrcoef(seen.ravel(), secret.ravel())[0, 1])) * math.sqrt(seen.size)


def leak(seen: Values, update: Values) -> float:
    """The largest correlation of an update (tensors, values) with what is seen of it: its words, high and low bits, and
    across tensors, as a mask that two tensors share would show in their difference.
    """
    wrapped = np.mod(seen, 2.0**32)
    bits = [seen, np.floor(wrapped / 2**24), np.mod(np.floor(wrapped), 256)]
    found = [correlation(one, of) for one in bits if one.std() for of in (update, np.sign(update), np.abs(update))]
    for i in range(TENSORS):
        for j in range(TENSORS):
            if i != j:
                found += [
                    correlation(seen[i], update[j]),
                    correlation(signed(seen[i] - seen[j]), update[i] - update[j]),
                ]
    return max(found)


def signed(words: Values) -> Values:
    """The difference of two words on the ring, about zero; floats stay what they are."""
    small = float(np.abs(words).max()) < 2**16
    wrapped: Values = np.mod(words + 2.0**31, 2.0**32) - 2.0**31
    return words if small else wrapped


def words_of(update: ring.Floats, masks: Masks | None) -> Values:
    out, base = np.empty(update.size, np.uint32), np.zeros(update.size, np.float32)
    ring.encode(update.ravel(), base, ring.Codec(5, 0.5), None, out, masks)
    return out.view(np.int32).astype(np.float64).reshape(update.shape)


def ours(update: ring.Floats) -> Values:
    dealers = Dealers(5, seed=2)
    dealers.begin()
    return words_of(update, dealers.sums[dealers.roster[2]].masks())


def unmasked(update: ring.Floats) -> Values:
    return words_of(update, None)


def float_shares(update: ring.Floats) -> Values:
    """The share that is left when four random ones were taken off; a fresh generator for each tensor."""
    randoms = np.random.default_rng(5)
    last: ring.Floats = (update - randoms.uniform(-0.5, 0.5, (4, *update.shape)).sum(axis=0)).astype(np.float32)
    return last.astype(np.float64)


def float_shares_of_one_seed(update: ring.Floats) -> Values:
    """Large ones, but each tensor's from a generator of the same seed: their difference is that of the updates."""
    rows = [row - np.random.default_rng(5).uniform(-100, 100, row.shape).astype(np.float32) for row in update]
    return np.array(rows, np.float64)


def one_stream_for_every_tensor(update: ring.Floats) -> Values:
    """Our masks, begun anew for each tensor."""
    return np.array([ours(row.reshape(1, -1))[0] for row in update])


def the_same_masks_twice(update: ring.Floats) -> Values:
    """What was masked in another round with the same keys is known to be zero."""
    return ours(update) - ours(np.zeros_like(update))


def an_update() -> ring.Floats:
    return np.random.default_rng(3).normal(0, 0.05, (TENSORS, SIZE)).astype(np.float32)


def test_no_masked_word_correlates_with_an_update_nor_across_tensors() -> None:
    update = an_update()
    assert leak(ours(update), update.astype(np.float64)) < NOTICED


@pytest.mark.parametrize(
    "scheme",
    [unmasked, float_shares, float_shares_of_one_seed, one_stream_for_every_tensor, the_same_masks_twice],
)
def test_schemes_that_leak_are_noticed_by_the_same_test(scheme: Scheme) -> None:
    update = an_update()
    assert leak(scheme(update), update.astype(np.float64)) > NOTICED


def test_masked_words_are_uniform() -> None:
    """Chi-square of their top bytes, fixed seed; an update's own are far from it."""
    update = an_update()
    for words, uniform in ((ours(update), True), (unmasked(update), False)):
        counts = np.bincount((np.mod(words, 2.0**32) // 2**24).astype(np.int64).ravel(), minlength=256)
        chi = float(((counts - counts.mean()) ** 2 / counts.mean()).sum())
        assert (abs(chi - 255) < 5 * (2 * 255) ** 0.5) == uniform


def shares_of(secrets: list[bytes], entropy: Callable[[int], bytes]) -> Values:
    """(secrets, shares, bytes)"""
    dealt = [split(secret, 5, 4, entropy) for secret in secrets]
    return np.array([[list(share[1:]) for share in shares] for shares in dealt], np.float64)


def test_no_share_correlates_with_its_secret() -> None:
    randoms = random.Random(6)
    secrets = [bytes(sorted(randoms.randbytes(32))) for _ in range(800)]  # not uniform: a leak would show
    known = np.array([list(secret) for secret in secrets], np.float64)
    for entropy, hides in ((randoms.randbytes, True), (lambda size: bytes(size - 1) + b"\x01", False)):
        shares = shares_of(secrets, entropy)
        largest = max(correlation(shares[:, k, at], known[:, at]) for k in range(5) for at in range(32))
        assert (largest < NOTICED) == hides
