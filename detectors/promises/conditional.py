"""Calibration-conditional p-values: with confidence over the calibration draw, valid at every level at once.

The marginal p-value p = i / (n + 1) is uniform only on average over calibration draws. Replaced by h(p) = b_i, where
P(U_(1) <= b_1, ..., U_(n) <= b_n) >= 1 - delta for the order statistics of n uniforms, it satisfies
P(h(p) <= t | calibration) <= t for all t together, with probability 1 - delta. h does not change the order, so a rule at level
alpha is still one order statistic: the largest i with b_i <= alpha.
Source: Bates, Candes, Lei, Romano & Sesia 2023, arXiv:2104.08279, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import gammaln

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float64 = NDArray[np.float64]

FEWEST_ASYMPTOTIC = (
    100  # from here on its simultaneous coverage was at least 1 - delta (tests/test_simulators_refusal.py)
)
_LEAST_LOGARITHMS = 16  # e^e = 15.2
_ROUNDING = 1e-3


def simes(n: int, delta: float) -> Float64:
    """(n,) b_1 <= ... <= b_n in (0, 1), exact for every n: the generalised Simes bound with k = n / 2.

    b_{n+1-i} = 1 - delta^(1/k) [i (i-1) ... (i-k+1) / (n (n-1) ... (n-k+1))]^(1/k), the bracket 0 for i < k.
    Raises: ValueError for n < 1.
    """
    if n < 1:
        raise ValueError(f"n: expected at least 1 calibration unit, got {n}")
    k = max(1, n // 2)
    i = np.arange(n, 0, -1, dtype=np.float64)
    inside = np.maximum(i - k, 0)
    logs = gammaln(i + 1) - gammaln(inside + 1) - gammaln(n + 1) + gammaln(n - k + 1)
    bounds: Float64 = -np.expm1((math.log(delta) + np.where(i >= k, logs, -np.inf)) / k)
    return bounds


def asymptotic(n: int, delta: float) -> Float64:
    """(n,) b_1 <= ... <= b_n in (0, 1]: i / n plus the law of the iterated logarithm's width, exact as n grows.

    b_i = min(1, i/n + c sqrt(i (n - i)) / (n sqrt n)), c = [-ln(-ln(1-delta)) + 2 lnln n + lnlnln n / 2 - ln(pi) / 2] / sqrt(2 lnln n).
    Raises: ValueError for n below 16, where lnlnln n is not defined.
    """
    if n < _LEAST_LOGARITHMS:
        raise ValueError(f"n: expected at least 16 calibration units for the asymptotic bound, got {n}")
    twice = math.log(math.log(n))
    wide = -math.log(-math.log1p(-delta)) + 2 * twice + math.log(twice) / 2 - math.log(math.pi) / 2
    i = np.arange(1, n + 1, dtype=np.float64)
    raw = i / n + max(0.0, wide / math.sqrt(2 * twice)) * np.sqrt(i * (n - i)) / (n * math.sqrt(n))
    bounds: Float64 = np.minimum(1.0, np.maximum.accumulate(raw))
    return bounds


BOUNDS: dict[str, Callable[[int, float], Float64]] = {"simes": simes, "asymptotic": asymptotic}


def adjust(p: Float64, bounds: Float64) -> Float64:
    """h(p) of marginal p-values (...,) in [1 / (n + 1), 1], given b (n,): (...,) in (0, 1], h(1) = 1."""
    n = bounds.size
    place = np.ceil((n + 1) * np.asarray(p, np.float64) - _ROUNDING).astype(np.int64)
    found: Float64 = np.append(bounds, 1.0)[np.clip(place, 1, n + 1) - 1]
    return found


def rank(n: int, alpha: float, delta: float, by: str) -> int:
    """The rank of the threshold that refuses exactly h(p) <= alpha; n + 1 when n units cannot carry alpha."""
    if n < fewest(by):
        return n + 1
    return n + 1 - int(np.count_nonzero(BOUNDS[by](n, delta) <= alpha))


def fewest(by: str) -> int:
    """The fewest units the bound is used with."""
    return FEWEST_ASYMPTOTIC if by == "asymptotic" else 1


def units_needed(alpha: float, delta: float, by: str) -> int:
    """The smallest n whose b_1 is at most alpha, to the step of the search."""
    low, high = 0, fewest(by)
    while smallest(high, delta, by) > alpha:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if smallest(middle, delta, by) > alpha else (low, middle)
    return high


def smallest(n: int, delta: float, by: str) -> float:
    """b_1: the smallest level that n units carry; 1 when there are too few for the bound."""
    return 1.0 if n < fewest(by) else float(BOUNDS[by](n, delta)[0])
