"""Shamir's secret sharing of 32-byte secrets: any `threshold` shares give the secret back, fewer say nothing about it.

    f(x) = secret + c_1 x + ... + c_(t-1) x^(t-1)  modulo P      share k = f(k + 1), 33 bytes, big-endian

P = 2^256 + 297 is the smallest prime above every secret. Coefficients are uniform below P: 33 bytes of entropy are
taken modulo P unless they are 255 P or more, and then drawn again. Shares carry no proof: a forged one, or a dealer's
shares that lie on no common polynomial, rebuild something else, so whoever joins checks the result against what the
dealer committed to (docs/protocol.md, unmasking). Python's integers do not take constant time; a secret is split once,
on its owner's machine, and joined only to be published. Shamir 1979; x = 0 is never a share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from discod.errors import Broken, LocalError

P = 2**256 + 297
SECRET_BYTES = 32
SHARE_BYTES = 33
WHOLE = 2 ** (8 * SHARE_BYTES) // P * P  # the multiples of P that fit into a draw: 255 P


def split(secret: bytes, shares: int, threshold: int, entropy: Callable[[int], bytes]) -> tuple[bytes, ...]:
    """Share k, for x = k + 1, of every k below `shares`; any `threshold` of them join.

    secret: (32,) bytes; entropy(n): n uniform bytes, fresh for each call. The shares have 33 bytes each.
    """
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= shares:
        raise LocalError(f"cannot split {len(secret)} bytes into {shares} shares of which {threshold} join")
    coefficients = [int.from_bytes(secret, "big"), *(_uniform(entropy) for _ in range(threshold - 1))]
    return tuple(_value(coefficients, k + 1).to_bytes(SHARE_BYTES, "big") for k in range(shares))


def _uniform(entropy: Callable[[int], bytes]) -> int:
    while (drawn := int.from_bytes(entropy(SHARE_BYTES), "big")) >= WHOLE:
        pass
    return drawn % P


def _value(coefficients: list[int], x: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % P
    return value


def join(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The (32,) secret, from the shares of the `threshold` lowest indices k (x = k + 1).

    Raises:
        Broken: a share has the wrong length or is P or more, there are too few, or they make no 32-byte secret.
    """
    if threshold < 1 or min(shares, default=0) < 0:
        raise LocalError("a threshold is at least 1, an index at least 0")
    values = {k + 1: _parsed(share) for k, share in shares.items()}
    if len(values) < threshold:
        raise Broken(None, f"{len(values)} shares of a secret, {threshold} are needed")
    chosen = sorted(values)[:threshold]
    secret = sum(values[x] * weight for x, weight in zip(chosen, _weights(chosen), strict=True)) % P
    if secret >> (8 * SECRET_BYTES):
        raise Broken(None, "the shares make no secret")
    return secret.to_bytes(SECRET_BYTES, "big")


def _parsed(share: bytes) -> int:
    value = int.from_bytes(share, "big")
    if len(share) != SHARE_BYTES or value >= P:
        raise Broken(None, "a share is malformed")
    return value


def _weights(points: list[int]) -> Iterator[int]:
    """Of f(x) in f(0), for each x: the product over all other points y of y / (y - x), modulo P."""
    for x in points:
        above, below = 1, 1
        for y in points:
            if y != x:
                above, below = above * y, below * (y - x)
        yield above * pow(below, -1, P) % P
