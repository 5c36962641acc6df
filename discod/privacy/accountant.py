"""The accountant: what noised releases cost together, as Renyi differential privacy (RDP) on a fixed list of orders.

Mironov 2017 (RDP adds under composition); Mironov, Talwar, Zhang 2019, sections 3.2 and 3.3 (the Gaussian on a Poisson
sample, whole and fractional orders); Canonne, Kamath, Steinke 2020, proposition 12 (from RDP to epsilon). Adjacency is
adding or removing one record, or one peer: whatever the noise was measured for.

    Curve      one RDP value for each of ORDERS; curves of successive releases add up, epsilons do not
    A(order)   the moment, exp((order - 1) RDP): sums run in log space, whole orders without cancellation

ORDERS is kept in people's ledgers and never changes. Pure; the standard library only.
"""

from __future__ import annotations

import math
from functools import lru_cache

from discod.errors import BadData

Curve = tuple[float, ...]

ORDERS: tuple[float, ...] = (
    *(1.25, 1.5, 1.75),
    *(n / 10 for n in range(20, 110)),  # 2.0, 2.1, ..., 10.9
    *map(float, range(11, 64)),
    *(64.0, 76.0, 92.0, 108.0, 128.0, 152.0, 184.0, 220.0, 256.0, 304.0, 368.0, 440.0, 512.0, 608.0, 736.0, 880.0),
    1024.0,
)
NOTHING: Curve = (0.0,) * len(ORDERS)
NOISE_STEP = 1e-4  # noise_for answers in whole steps, rounded up
MOST_NOISE = 1e5
MOST_TERMS = 1000  # of the series for a fractional order
NEGLIGIBLE = 30.0  # nats below the sum at which a term ends a series
TINY = 1e-12  # below it rounding spoils log A of a fractional order
LARGE = 20.0  # above it erfc by its asymptotic series, good to 1e-13
MOST_EPSILON = 700.0  # exp of more is no float


class OutOfRange(BadData):
    """A privacy parameter that no guarantee exists for."""

    code = "privacy-out-of-range"


def gaussian(z: float, steps: int = 1) -> Curve:
    """The curve of `steps` Gaussian releases whose noise has `z` times the standard deviation of the sensitivity.

    Raises: OutOfRange.
    """
    return sampled_gaussian(1.0, z, steps)


def sampled_gaussian(q: float, z: float, steps: int = 1) -> Curve:
    """The curve of `steps` Gaussian releases, each on a fresh Poisson sample that holds a record with probability `q`.

    Raises: OutOfRange.
    """
    _check("q, the sampling probability", q, 0.0, 1.0)
    _check("z, the noise multiplier", z, 0.0, math.inf)
    if steps < 0:
        raise OutOfRange(f"steps = {steps} is not possible", "it is a count")
    return tuple(steps * value for value in _one_step(q, z))


def add(*curves: Curve) -> Curve:
    """The curve of all these releases together."""
    return tuple(math.fsum(values) for values in zip(NOTHING, *curves, strict=True))


def epsilon_of(curve: Curve, delta: float, overflow: float = 0.0) -> float:
    """The smallest epsilon that the curve proves at `delta`; infinity when it proves none.

    `overflow` is the probability that the releases were not what the curve describes: drawn again until a sample fitted
    its block. Each such event counts on both sides of the inequality, so delta loses (1 + e^epsilon) overflow.
    Raises: OutOfRange.
    """
    _check("delta", delta, 0.0, 1.0, open_end=True)
    epsilon = _convert(curve, delta)
    while overflow > 0.0 and epsilon < MOST_EPSILON:
        left = delta - overflow * (1.0 + math.exp(epsilon))
        if left <= 0.0:
            return math.inf
        before, epsilon = epsilon, _convert(curve, left)
        if epsilon <= before + 1e-9:
            break
    return epsilon


def noise_for(epsilon: float, delta: float, q: float, steps: int) -> float:
    """The smallest noise multiplier with which `steps` sampled releases cost at most `epsilon`; in steps of 1e-4.

    Raises: OutOfRange, also when no sensible noise is enough.
    """
    _check("epsilon", epsilon, 0.0, math.inf)
    _check("delta", delta, 0.0, 1.0, open_end=True)
    return _noise_for(epsilon, delta, q, steps)


def _check(name: str, value: float, low: float, high: float, *, open_end: bool = False) -> None:
    if not (low < value < high or (value == high < math.inf and not open_end)):
        end = "" if high == math.inf else f" and {'below' if open_end else 'at most'} {high:g}"
        raise OutOfRange(f"{name} = {value:g} is not possible", f"it is above {low:g}{end}")


def _convert(curve: Curve, delta: float) -> float:
    """Canonne, Kamath, Steinke 2020; a divergence so small that delta alone covers it gives 0 (Pinsker's side)."""
    best = math.inf
    for order, value in zip(ORDERS, curve, strict=True):
        if delta**2 + math.expm1(-value) > 0:
            return 0.0
        best = min(best, value + math.log1p(-1 / order) - math.log(delta * order) / (order - 1))
    return max(0.0, best)


@lru_cache(maxsize=64)
def _noise_for(epsilon: float, delta: float, q: float, steps: int) -> float:
    def fits(number: int) -> bool:
        return epsilon_of(sampled_gaussian(q, number * NOISE_STEP, steps), delta) <= epsilon

    high = round(1 / NOISE_STEP)
    while not fits(high):
        high *= 2
        if high * NOISE_STEP > MOST_NOISE:
            raise OutOfRange(f"epsilon = {epsilon:g} needs more noise than any model survives", "a larger epsilon")
    low = 0  # no noise never fits
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return round(high * NOISE_STEP, 4)


@lru_cache(maxsize=256)
def _one_step(q: float, z: float) -> Curve:
    if q == 1.0:
        return tuple(order / (2 * z * z) for order in ORDERS)
    return tuple(_log_moment(q, z, order) / (order - 1) for order in ORDERS)


def _log_moment(q: float, z: float, order: float) -> float:
    if order.is_integer():
        return _log_whole(q, z, int(order))
    found = _log_fractional(q, z, order)
    if found is None or found < TINY:
        found = _between(q, z, order)
    return min(found, (order - 1) * order / (2 * z * z))  # sampling never costs


def _log_whole(q: float, z: float, order: int) -> float:
    """log A = log(1 + sum over k >= 2 of C(order, k) q^k (1-q)^(order-k) (exp((k^2-k) / 2z^2) - 1)); all terms > 0."""
    log_q, log_p = math.log(q), math.log1p(-q)
    terms = [
        _log_binomial(order, k) + k * log_q + (order - k) * log_p + _log_expm1((k * k - k) / (2 * z * z))
        for k in range(2, order + 1)
    ]
    return _log1p_exp(_log_sum(terms))


def _log_fractional(q: float, z: float, order: float) -> float | None:
    """Section 3.3: A as two half-line integrals, each a binomial series; None when they do not end.

    The terms' absolute values are summed, as dp-accounting does: an upper bound.
    """
    log_q, log_p = math.log(q), math.log1p(-q)
    middle = z * z * (log_p - log_q) + 0.5
    total = last_left = last_right = -math.inf
    for i in range(MOST_TERMS):
        j, chosen = order - i, _log_binomial(order, i)
        left = chosen + i * log_q + j * log_p + (i * i - i) / (2 * z * z) + _log_tail((i - middle) / z)
        right = chosen + j * log_q + i * log_p + (j * j - j) / (2 * z * z) + _log_tail((middle - j) / z)
        total = _log_sum((total, left, right))
        if left < last_left and right < last_right and max(left, right) < total - NEGLIGIBLE:
            return total
        last_left, last_right = left, right
    return None


def _between(q: float, z: float, order: float) -> float:
    """An upper bound for a fractional order: log A is convex in the order, and 0 at order 1."""
    low = math.floor(order)
    below = _log_whole(q, z, low) if low > 1 else 0.0
    return below + (order - low) * (_log_whole(q, z, low + 1) - below)


def _log_binomial(n: float, k: int) -> float:
    """log |C(n, k)|"""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _log_tail(x: float) -> float:
    """log P(a standard normal exceeds x)"""
    y = x / math.sqrt(2)
    if y < LARGE:
        return math.log(math.erfc(y) / 2)
    r = 1 / (2 * y * y)
    series = 1 - r * (1 - 3 * r * (1 - 5 * r * (1 - 7 * r)))
    return -y * y - math.log(2 * y * math.sqrt(math.pi)) + math.log(series)


def _log_expm1(x: float) -> float:
    """log(e^x - 1) for x > 0"""
    return x + math.log1p(-math.exp(-x)) if x > 1 else math.log(math.expm1(x))


def _log1p_exp(x: float) -> float:
    """log(1 + e^x)"""
    return x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))


def _log_sum(logs: list[float] | tuple[float, ...]) -> float:
    top = max(logs)
    return top if top == -math.inf else top + math.log(math.fsum(math.exp(value - top) for value in logs))
