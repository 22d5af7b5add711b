"""Thresholds that are order statistics of calibration scores.

Throughout, n units have scores sorted ascending in a float32 table, the threshold is the `rank`-th smallest, and a unit is
refused exactly when its score is greater. `inflation` is 1 for plain tables and e for tables of clustered rows (`clustered`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from demur.detectors.promises import binomial
from demur.detectors.promises.promise import Level, exact

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROUNDING = 1e-9


def marginal_rank(n: int, alpha: Level) -> int:
    """ceil((n + 1)(1 - alpha)), exactly; n + 1 when n units cannot carry alpha.

    Source: Vovk et al. 2005; refusing above this rank happens with probability <= alpha, averaged over calibration draws.
    """
    return math.ceil((n + 1) * (1 - exact(alpha)))


def units_for_marginal(alpha: Level) -> int:
    """The smallest n that carries a marginal promise: ceil(1 / alpha) - 1."""
    return math.ceil(1 / exact(alpha)) - 1


def tolerance_rank(n: int, alpha: Level, confidence: float, inflation: float = 1.0) -> int:
    """The smallest j with BinomCDF(j - 1; n, 1 - alpha) >= confidence; n + 1 when n units cannot carry the promise.

    Source: Wilks 1941 (tolerance limits); equal to P(Bin(n, alpha) <= n - j) <= 1 - confidence.
    """
    return n - binomial.most_errors(n, float(alpha), delta(confidence) / inflation)


def units_for_tolerance(alpha: Level, confidence: float, inflation: float = 1.0) -> int:
    """The smallest n that carries a promise with confidence: ln(delta) / ln(1 - alpha), rounded up."""
    return binomial.trials_for_zero_errors(float(alpha), delta(confidence) / inflation)


def tolerance_bound(n: int, rank: int, confidence: float, inflation: float = 1.0) -> float:
    """What the refused share of good units does not exceed for this table, with `confidence`; in (0, 1].

    The share above the rank-th of n order statistics is at most Beta(n - rank + 1, rank) distributed.
    """
    return binomial.upper(n - rank, n, delta(confidence) / inflation)


def supported_level(n: int, confidence: float | None, inflation: float = 1.0) -> float | None:
    """The smallest alpha that n units carry, a billionth above it so that it survives rounding; None when n = 0."""
    if n == 0:
        return None
    least = 1 / (n + 1)
    if confidence is not None:
        least = max(least, binomial.upper(0, n, delta(confidence) / inflation))
    return least * (1 + _ROUNDING)


def p_values(table: NDArray[np.float32], scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """(1 + #{table >= score}) / (n + 1): the conformal p-value that the graph computes.

    Shapes: table (n,) sorted ascending, scores (N,) -> (N,) float32. Range: [1 / (n + 1), 1].
    Source: Bates et al. 2023, eq. 2.
    """
    at_least = table.size - np.searchsorted(table, scores, side="left")
    return ((1 + at_least) / (table.size + 1)).astype(np.float32)


def delta(confidence: float) -> float:
    """1 - confidence as a person wrote it: 0.9 gives 0.1."""
    return float(1 - exact(confidence))
