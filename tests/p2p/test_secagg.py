"""The secrets of a secure sum: who can open which box, which shares open which sum, and what no repr shows."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from discod.errors import Broken, Refused
from discod.p2p import effects as fx
from discod.p2p.secagg import BOX_BYTES, FIELD, KEY_BYTES, SHARE_BYTES, Secrets, check_keys, commitment
from discod.wire.codec import digest
from discod.wire.rounds import RoundKeys, Unmask
from tests.p2p.dealers import Dealers

# Every point of low order in its canonical spelling: curve25519's of order 1, 2, 4 and 8, and the twist's.
LOW_ORDER = (
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    FIELD - 1,
)


def octets(value: int) -> bytes:
    return value.to_bytes(KEY_BYTES, "little")


def flipped(share: bytes) -> bytes:
    """Another share of the same length that is still below P."""
    return share[:-1] + bytes([share[-1] ^ 1])


# Boxes


def test_a_box_opens_for_its_receiver_alone() -> None:
    d = Dealers(4, deal=False)
    dealer, receiver, *others = d.roster
    box = dict(d.sums[dealer].boxes())[receiver]
    for other in (dealer, *others):
        with pytest.raises(Broken, match="cannot be opened"):
            d.sums[other].take_box(dealer, box)
        assert dealer == other or dealer not in d.sums[other].held
    d.sums[receiver].take_box(dealer, box)
    assert dealer in d.sums[receiver].held


def test_a_box_is_not_taken_for_another_dealers() -> None:
    d = Dealers(4, deal=False)
    dealer, receiver, other, _ = d.roster
    with pytest.raises(Broken, match="cannot be opened") as refusal:
        d.sums[receiver].take_box(other, dict(d.sums[dealer].boxes())[receiver])
    assert refusal.value.peer == other


def test_a_box_of_another_round_is_not_opened_though_the_keys_are_the_same() -> None:
    one, other = Dealers(3, seed=1, deal=False), Dealers(3, seed=1, rid=digest("test/another round"), deal=False)
    dealer, receiver, _ = one.roster
    assert one.keys == other.keys
    with pytest.raises(Broken, match="cannot be opened"):
        other.sums[receiver].take_box(dealer, dict(one.sums[dealer].boxes())[receiver])


@pytest.mark.parametrize("length", [0, 16, BOX_BYTES - 1, BOX_BYTES + 1])
def test_a_box_of_another_length_is_broken_before_it_is_opened(length: int) -> None:
    d = Dealers(3, deal=False)
    with pytest.raises(Broken, match=f"shares of {length} bytes, not {BOX_BYTES}"):
        d.sums[d.roster[0]].take_box(d.roster[1], bytes(length))


@pytest.mark.parametrize("place", [0, SHARE_BYTES, BOX_BYTES - 1])
def test_a_box_with_one_bit_changed_is_not_opened(place: int) -> None:
    d = Dealers(3, deal=False)
    dealer, receiver, _ = d.roster
    box = bytearray(dict(d.sums[dealer].boxes())[receiver])
    box[place] ^= 1
    with pytest.raises(Broken, match="cannot be opened"):
        d.sums[receiver].take_box(dealer, bytes(box))


def test_a_box_is_sealed_anew_to_the_same_bytes_and_no_two_boxes_have_one_key() -> None:
    """Its nonce is zero: another text under the same key would show the difference of the two."""
    d = Dealers(5, deal=False)
    assert all(side.boxes() == side.boxes() for side in d.sums.values())
    pairs = [(a, b) for a in d.roster for b in d.roster if a != b]
    assert len({d.sums[a]._box_key(b, a, b) for a, b in pairs}) == len(pairs)
    assert all(d.sums[a]._box_key(b, a, b) == d.sums[b]._box_key(a, a, b) for a, b in pairs)


# Keys


def keys_of(*secrets: Secrets) -> dict[bytes, RoundKeys | None]:
    return {bytes([n]) * 32: one.public for n, one in enumerate(secrets)}


def three() -> dict[bytes, RoundKeys | None]:
    random = Dealers(3).entropy
    return keys_of(Secrets(random), Secrets(random), Secrets(random))


def changed(field: str, value: bytes) -> dict[bytes, RoundKeys | None]:
    keys = three()
    victim = list(keys)[1]
    theirs = keys[victim]
    assert theirs is not None
    return keys | {victim: msgspec.structs.replace(theirs, **{field: value})}


def why_refused(keys: dict[bytes, RoundKeys | None]) -> str:
    with pytest.raises(Refused) as refusal:
        check_keys(keys, keys)
    assert refusal.value.peer == list(keys)[1]
    return refusal.value.why


def test_fresh_keys_are_taken() -> None:
    check_keys(three(), three())


@pytest.mark.parametrize("field", ["mask", "box"])
@pytest.mark.parametrize("point", LOW_ORDER)
def test_a_point_of_low_order_is_refused(point: int, field: str) -> None:
    assert why_refused(changed(field, octets(point))) == "a round key of low order"


@pytest.mark.parametrize("point", LOW_ORDER)
def test_with_such_a_point_anybody_would_know_the_mask(point: int) -> None:
    """What is refused above is refused for a reason: the library itself finds no secret in it."""
    with pytest.raises(ValueError, match="shared key"):
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(octets(point)))


@pytest.mark.parametrize("field", ["mask", "box"])
@pytest.mark.parametrize("value", [FIELD, FIELD + 1, FIELD + 9, FIELD + 18, 2**255, 2**255 + 9, 2**256 - 1])
def test_a_key_that_is_not_in_canonical_form_is_refused(value: int, field: str) -> None:
    """X25519 takes 9 + p, and 9 with the top bit set, for 9: one key would have several spellings."""
    assert why_refused(changed(field, octets(value))) == "a round key that is not in canonical form"


@pytest.mark.parametrize("field", ["mask", "box"])
@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_of_another_length_is_refused(length: int, field: str) -> None:
    assert why_refused(changed(field, bytes(length))) == "a round key that is not in canonical form"


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_commitment_of_another_length_is_refused(length: int) -> None:
    assert why_refused(changed("commitment", bytes(length))) == "an advert without the keys of the secure sum"


def test_missing_keys_are_refused() -> None:
    keys = three()
    assert why_refused(keys | {list(keys)[1]: None}) == "an advert without the keys of the secure sum"


@pytest.mark.parametrize("field", ["mask", "box"])
def test_another_peers_key_is_refused_whatever_it_was_for(field: str) -> None:
    """With a peer's mask key for its own, a colluder would see to whom the mask it shares is known."""
    first = next(iter(three().values()))
    assert first is not None
    for copied in (first.mask, first.box):
        keys = changed(field, copied)
        with pytest.raises(Refused, match="occurs twice") as refusal:
            check_keys(keys, [list(keys)[1]])
        assert refusal.value.peer == list(keys)[1]


def test_one_key_for_both_purposes_is_refused() -> None:
    theirs = list(three().values())[1]
    assert theirs is not None
    assert why_refused(changed("box", theirs.mask)) == "a round key that occurs twice"


def test_who_was_there_before_does_not_answer_for_a_copy() -> None:
    """Only the fresh keys are judged; of two equal ones nobody knows whose they are, so the later is refused."""
    keys = changed("mask", next(k.mask for k in three().values() if k is not None))
    check_keys(keys, [list(keys)[2]])


# Opening


@pytest.mark.parametrize(("peers", "gone"), [(3, 0), (5, 0), (5, 1), (7, 2), (16, 5)])
def test_masks_and_opening_are_nothing_in_all_whoever_is_gone(peers: int, gone: int) -> None:
    """Stream by stream: what hides the included, and what comes off their sum, cancel."""
    d = Dealers(peers)
    started = d.begin()
    included = started[: peers - gone]
    side = d.show(started[0], included, started[-d.threshold :])
    opening, plus, minus = side.opening(included), Counter[bytes](), Counter[bytes]()
    for masks in (opening, *(d.sums[peer].masks() for peer in included)):
        plus.update(masks.plus)
        minus.update(masks.minus)
    assert plus == minus
    assert len(opening.plus) + len(opening.minus) == len(included) * (1 + gone)


def test_every_set_that_starts_masks_with_other_streams() -> None:
    one, other = Dealers(5), Dealers(5)
    one.begin()
    other.begin(other.roster[:4])
    me = one.roster[0]
    assert one.keys == other.keys
    mine, theirs = one.sums[me].masks(), other.sums[me].masks()
    assert set(mine.plus[1:] + mine.minus).isdisjoint(theirs.plus[1:] + theirs.minus)
    assert mine.plus[0] == theirs.plus[0]  # the own stream is the round's: a peer follows one Start of it, ever


def test_fewer_than_t_open_nothing() -> None:
    d = Dealers(5)
    started = d.begin()
    side = d.show(started[0], started, started[: d.threshold - 1])
    assert not side.can_open
    d.show(started[0], started, started[: d.threshold])
    assert side.can_open


@pytest.mark.parametrize("length", [0, SHARE_BYTES - 1, SHARE_BYTES + 1])
def test_a_shown_share_of_another_length_is_broken(length: int) -> None:
    d = Dealers(3)
    me, liar, _ = d.begin()
    shares = (*d.sums[liar].shares_for(d.roster)[:2], bytes(length))
    with pytest.raises(Broken, match="wrong number or length") as refusal:
        d.sums[me].show(liar, shares)
    assert refusal.value.peer == liar


@pytest.mark.parametrize("count", [0, 2, 4])
def test_shown_shares_of_another_number_are_broken(count: int) -> None:
    d = Dealers(3)
    me, liar, _ = d.begin()
    with pytest.raises(Broken, match="wrong number or length"):
        d.sums[me].show(liar, (*d.sums[liar].shares_for(d.roster), bytes(SHARE_BYTES))[:count])


Lie = Callable[[Dealers, bytes], None]


def other_seed(d: Dealers, dealer: bytes) -> None:
    """It deals shares of another seed than the one it has promised."""
    d.sums[dealer]._dealt = tuple(
        (b, key) for (b, _), (_, key) in zip(dealt(d, dealer), d.sums[dealer]._dealt, strict=True)
    )


def other_mask_key(d: Dealers, dealer: bytes) -> None:
    d.sums[dealer]._dealt = tuple(
        (b, key) for (_, key), (b, _) in zip(dealt(d, dealer), d.sums[dealer]._dealt, strict=True)
    )


def noise(d: Dealers, dealer: bytes) -> None:
    """Shares on no common polynomial."""
    d.sums[dealer]._dealt = tuple((b"\0" + d.entropy(32), b"\0" + d.entropy(32)) for _ in d.roster)


def dealt(d: Dealers, dealer: bytes) -> tuple[tuple[bytes, bytes], ...]:
    mine, d.secrets[dealer] = d.secrets[dealer], Secrets(d.entropy)
    again = d.side(dealer)._dealt
    d.secrets[dealer] = mine
    return again


def lied(lie: Lie) -> tuple[Dealers, bytes]:
    d = Dealers(5, deal=False)
    dealer = d.roster[2]
    lie(d, dealer)
    d.sums[dealer]._held[dealer] = d.sums[dealer]._dealt[2]
    d.deal()
    d.begin()
    return d, dealer


@pytest.mark.parametrize(("lie", "gone"), [(other_seed, 0), (other_mask_key, 1), (noise, 0), (noise, 1)])
def test_a_dealer_whose_shares_rebuild_something_else_is_named(lie: Lie, gone: int) -> None:
    d, dealer = lied(lie)
    included = [peer for peer in d.roster if peer != dealer or not gone]
    side = d.show(d.roster[0], included, d.roster)
    with pytest.raises(Refused, match="rebuild nothing it has promised") as refusal:
        side.opening(included)
    assert refusal.value.peer == dealer


@pytest.mark.parametrize(("lie", "gone"), [(other_seed, 1), (other_mask_key, 0)])
def test_shares_that_nobody_needs_may_be_wrong(lie: Lie, gone: int) -> None:
    d, dealer = lied(lie)
    included = [peer for peer in d.roster if peer != dealer or not gone]
    assert d.show(d.roster[0], included, d.roster).opening(included)


@pytest.mark.parametrize("peers", [4, 5, 16, 32])
@pytest.mark.parametrize("place", ["first", "last"])
def test_one_peer_that_shows_false_shares_beside_more_than_t_true_ones_does_not_hurt(peers: int, place: str) -> None:
    """Nor is a dealer blamed for it. Found by this test: the first in order was in all the subsets that were tried."""
    d = Dealers(peers)
    started = d.begin()
    me, liar = started[1], started[0 if place == "first" else -1]
    d.show(me, started, started)
    d.sums[me]._shown[liar] = tuple(flipped(share) for share in d.sums[liar].shares_for(started))
    opening = d.sums[me].opening(started)
    assert opening.minus == tuple(d.sums[peer].masks().plus[0] for peer in started)


def test_what_a_peer_shows_first_counts() -> None:
    d = Dealers(4)
    me, liar, *_ = d.begin()
    d.show(me, d.roster, d.roster)
    d.sums[me].show(liar, tuple(flipped(share) for share in d.sums[liar].shares_for(d.roster)))
    assert d.sums[me].opening(d.roster)


def test_no_unmask_can_hold_both_shares_of_one_peer() -> None:
    """There is one place for each peer of U1, and U decides what is in it: both are not to be written down."""
    d = Dealers(5)
    started = d.begin()
    side = d.sums[started[0]]
    assert msgspec.structs.fields(Unmask)[1].type == tuple[bytes, ...]
    for gone in range(3):
        included = started[gone:]
        shares = side.shares_for(included)
        assert len(shares) == len(started)
        for peer, share in zip(started, shares, strict=True):
            seed, key = side._held[peer]
            assert (share == seed, share == key) == (peer in included, peer not in included)


# What can be read


def secret_texts(d: Dealers) -> Iterator[str]:
    """Every secret of everybody, in the spellings a repr could have."""
    values = list[bytes]()
    for peer in d.roster:
        secrets, side = d.secrets[peer], d.sums[peer]
        values += [secrets.seed, secrets.mask.private_bytes_raw(), secrets.box.private_bytes_raw()]
        values += [share for both in (*side._dealt, *side._held.values()) for share in both]
        masks = side.masks()
        values += [*masks.plus, *masks.minus]
    for value in set(values):
        yield from (repr(value)[2:-1], value.hex(), str(int.from_bytes(value, "big")))


def test_no_repr_shows_a_secret() -> None:
    d = Dealers(4)
    started = d.begin()
    side = d.show(started[0], started, started)
    opening, own = side.opening(started), side.masks()
    effects = (fx.Contribute(d.rid, own), fx.Combine(d.rid, 0, d.roster, opening))
    things: list[Any] = [d.secrets[started[0]], side, own, opening, *effects, replace(effects[0], masks=None)]
    text = "".join(f"{thing!r}{thing}{[thing]}" for thing in things)
    assert "<Secrets>" in text
    assert "<SecureSum of 4>" in text
    assert [secret for secret in secret_texts(d) if secret in text] == []


def test_errors_show_no_secret() -> None:
    d, dealer = lied(noise)
    side = d.show(d.roster[0], d.roster, d.roster)
    with pytest.raises(Refused) as refusal:
        side.opening(d.roster)
    text = f"{refusal.value!r}{refusal.value}{refusal.value.why}"
    assert [secret for secret in secret_texts(d) if secret in text] == []
    assert dealer == refusal.value.peer


def test_a_commitment_is_the_labelled_hash_of_its_seed() -> None:
    assert (
        commitment(b"\x07" * 32) == hashlib.sha256(b"discod/commitment/1" + b"\x20" + bytes(7) + b"\x07" * 32).digest()
    )


def test_every_advert_has_fresh_secrets() -> None:
    d = Dealers(16)
    publics = [value for k in d.keys.values() for value in (k.mask, k.box, k.commitment)]
    assert len(set(publics)) == 3 * 16
