"""Secret sharing against polynomials written out, and against what its definition promises."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import shake_256

import hypothesis.strategies as st
import pytest
from hypothesis import given

from discod.errors import Broken, LocalError
from discod.shamir import SHARE_BYTES, P, join, split

SECRET = bytes(range(32))
DRAWS = (b"\xff" * 33, b"\xfe" + bytes(31) + b"\x07", bytes(range(64, 97)))  # refused; more than P; less
SHARES = (
    "0041434547494b4d4f51535557595b5d5f61636567696b6d6f71737577797a0c98",
    "00050a0f14191e23282d32373c41464b50555a5f64696e73787d82878c91932428",
    "004b555f69737d87919ba5afb9c3cdd7e1ebf6000a141e28323c46505a646865f8",
    "001425364758697a8b9cadbecfe0f2031425364758697a8b9cadbecfe0f1f9d0df",
    "005f7993adc7e1fc16304a647e98b2cce7011b354f69839db7d1ec06203a476606",
)

secrets = st.binary(min_size=32, max_size=32)
shapes = st.integers(1, 20).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


def drawn(*draws: bytes) -> Callable[[int], bytes]:
    """Entropy that gives exactly these, and fails when it is asked for more."""
    left = list(draws)

    def entropy(count: int) -> bytes:
        draw = left.pop(0)
        assert len(draw) == count
        return draw

    return entropy


def seeded(seed: int) -> Callable[[int], bytes]:
    state = [seed]

    def entropy(count: int) -> bytes:
        state[0] += 1
        return shake_256(b"%d" % state[0]).digest(count)

    return entropy


def coefficient(value: int) -> bytes:
    return (value % P).to_bytes(SHARE_BYTES, "big")


def indexed(shares: tuple[bytes, ...], *chosen: int) -> dict[int, bytes]:
    return {k: shares[k] for k in chosen}


def test_p_is_the_smallest_prime_above_every_secret() -> None:
    assert all(pow(a, P - 1, P) == 1 for a in range(2, 40))
    assert all(pow(3, q - 1, q) != 1 for q in range(2**256 + 1, P, 2))


def test_a_known_secret_has_known_shares() -> None:
    shares = split(SECRET, 5, 3, drawn(*DRAWS))
    assert tuple(share.hex() for share in shares) == SHARES
    assert join(indexed(shares, 4, 0, 2), 3) == SECRET


def test_shares_are_a_polynomial_written_out() -> None:
    c, secret = (P - 75431, int.from_bytes(DRAWS[2], "big")), int.from_bytes(SECRET, "big")
    for k, share in enumerate(SHARES):
        x = k + 1
        assert int(share, 16) == (secret + c[0] * x + c[1] * x**2) % P


@given(secrets, shapes, st.integers(0, 2**32), st.data())
def test_any_t_of_n_join(secret: bytes, shape: tuple[int, int], seed: int, data: st.DataObject) -> None:
    n, t = shape
    shares = split(secret, n, t, seeded(seed))
    assert {len(share) for share in shares} == {SHARE_BYTES}
    chosen = data.draw(st.permutations(range(n)))[: data.draw(st.integers(t, n))]
    assert join(indexed(shares, *chosen), t) == secret


@given(secrets, secrets, st.integers(0, 2**32))
def test_one_share_of_two_fits_every_secret(secret: bytes, other: bytes, seed: int) -> None:
    shares = split(secret, 4, 2, seeded(seed))
    for k, share in enumerate(shares):
        slope = (int.from_bytes(share, "big") - int.from_bytes(other, "big")) * pow(k + 1, -1, P)
        assert split(other, 4, 2, drawn(coefficient(slope)))[k] == share


@given(secrets, secrets, st.integers(0, 2**32), st.permutations(range(5)))
def test_two_shares_of_three_fit_every_secret(secret: bytes, other: bytes, seed: int, pick: list[int]) -> None:
    shares, (i, j) = split(secret, 5, 3, seeded(seed)), pick[:2]
    x, y, at_zero = i + 1, j + 1, int.from_bytes(other, "big")
    a = (int.from_bytes(shares[i], "big") - at_zero) * pow(x, -1, P)  # c_1 + c_2 x
    b = (int.from_bytes(shares[j], "big") - at_zero) * pow(y, -1, P)
    second = (a - b) * pow(x - y, -1, P)
    again = split(other, 5, 3, drawn(coefficient(a - second * x), coefficient(second)))
    assert indexed(again, i, j) == indexed(shares, i, j)


@given(st.integers(0, 2**255 - 1), st.integers(0, 2**255), st.integers(0, 2**32))
def test_sums_of_shares_are_shares_of_the_sum(one: int, two: int, seed: int) -> None:
    first, second = (split(v.to_bytes(32, "big"), 5, 4, seeded(seed + 99 * v)) for v in (one, two))
    pairs = zip(first, second, strict=True)
    sums = [coefficient(int.from_bytes(a, "big") + int.from_bytes(b, "big")) for a, b in pairs]
    assert join(dict(enumerate(sums)), 4) == (one + two).to_bytes(32, "big")


def test_draws_that_would_favour_small_coefficients_are_drawn_again() -> None:
    last, first = 255 * P - 1, 255 * P
    again = drawn(first.to_bytes(33, "big"), last.to_bytes(33, "big"))
    assert split(bytes(32), 1, 1, drawn()) == (bytes(33),)  # nothing to draw
    assert split(bytes(32), 2, 2, again)[0] == coefficient(P - 1)


def test_a_share_of_the_largest_value_is_taken_and_one_more_is_not() -> None:
    assert join({0: (P - 1).to_bytes(33, "big"), 1: (P - 2).to_bytes(33, "big")}, 2) == bytes(32)
    with pytest.raises(Broken, match="malformed"):
        join({0: P.to_bytes(33, "big"), 1: bytes(33)}, 2)


@pytest.mark.parametrize("share", [b"", bytes(32), bytes(34)])
def test_a_share_of_another_length_is_broken(share: bytes) -> None:
    with pytest.raises(Broken, match="malformed") as caught:
        join({0: bytes(33), 1: bytes(33), 2: share}, 2)
    assert caught.value.peer is None


def test_too_few_shares_are_broken() -> None:
    with pytest.raises(Broken, match="2 shares of a secret, 3 are needed"):
        join(indexed(split(SECRET, 5, 3, seeded(1)), 0, 4), 3)


@pytest.mark.parametrize("value", [2**256, P - 1])
def test_what_is_no_secret_of_32_bytes_is_broken(value: int) -> None:
    with pytest.raises(Broken, match="no secret"):
        join({3: value.to_bytes(33, "big")}, 1)


def test_a_forged_share_joins_to_something_else() -> None:
    shares = indexed(split(SECRET, 4, 3, seeded(5)), 0, 1, 3)
    shares[1] = bytes([shares[1][0]]) + bytes([shares[1][1] ^ 1]) + shares[1][2:]
    assert join(shares, 3) != SECRET


@pytest.mark.parametrize(("size", "n", "t"), [(31, 3, 2), (33, 3, 2), (32, 2, 3), (32, 2, 0)])
def test_what_cannot_be_split_is_our_bug(size: int, n: int, t: int) -> None:
    with pytest.raises(LocalError, match="cannot split"):
        split(bytes(size), n, t, seeded(1))


@pytest.mark.parametrize(("index", "threshold"), [(-1, 1), (0, 0)])  # x = 0 would be the secret itself
def test_an_index_or_a_threshold_that_cannot_be_is_our_bug(index: int, threshold: int) -> None:
    with pytest.raises(LocalError):
        join({index: bytes(33)}, threshold)
