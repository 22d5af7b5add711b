"""Exact binomial tails and Clopper-Pearson bounds, through the incomplete beta function so that far tails keep their digits."""

from __future__ import annotations

import math

from scipy.special import betaincc, betainccinv, betaincinv

# INVARIANT: 1 - cdf is never formed; at 1e-16 it is already 0, and a bound built on it would promise the impossible.


def cdf(errors: int, n: int, p: float) -> float:
    """P(Bin(n, p) <= errors), in [0, 1]; 0 for errors < 0."""
    if errors < 0:
        return 0.0
    return 1.0 if errors >= n else float(betaincc(errors + 1, n - errors, p))


def upper(errors: int, n: int, delta: float) -> float:
    """One-sided Clopper-Pearson upper bound at confidence 1 - delta: the p with P(Bin(n, p) <= errors) = delta.

    Range: (0, 1]; 1 when n = 0 or every trial is an error. Source: Clopper and Pearson 1934.
    Raises: ValueError when errors is outside [0, n] or delta outside (0, 1).
    """
    _check(errors, n, delta)
    return 1.0 if errors == n else float(betainccinv(errors + 1, n - errors, delta))


def lower(errors: int, n: int, delta: float) -> float:
    """One-sided Clopper-Pearson lower bound at confidence 1 - delta: the p with P(Bin(n, p) >= errors) = delta.

    Range: [0, 1); 0 when there is no error.
    Raises: ValueError when errors is outside [0, n] or delta outside (0, 1).
    """
    _check(errors, n, delta)
    return 0.0 if errors == 0 else float(betaincinv(errors, n - errors + 1, delta))


def interval(errors: int, n: int, confidence: float) -> tuple[float, float]:
    """Two-sided Clopper-Pearson interval, each tail (1 - confidence) / 2."""
    tail = (1.0 - confidence) / 2
    return lower(errors, n, tail), upper(errors, n, tail)


def most_errors(n: int, p: float, delta: float) -> int:
    """The largest e with P(Bin(n, p) <= e) <= delta, in [-1, n - 1]; -1 when not even e = 0 qualifies."""
    low, high = -1, n - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cdf(middle, n, p) <= delta else (low, middle - 1)
    return low


def trials_for_zero_errors(p: float, delta: float) -> int:
    """The smallest n with (1 - p)^n <= delta: trials needed before even a spotless record proves a rate of p."""
    n = max(1, math.ceil(math.log(delta) / math.log1p(-p)) - 1)
    while cdf(0, n, p) > delta:
        n += 1
    return n


def _check(errors: int, n: int, delta: float) -> None:
    if not 0 <= errors <= n:
        raise ValueError(f"errors: expected 0..{n}, got {errors}")
    if not 0 < delta < 1:
        raise ValueError(f"delta: expected a share strictly between 0 and 1, got {delta}")
