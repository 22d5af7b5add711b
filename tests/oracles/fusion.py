"""Conformal p-values, and scores of p-values (N, S)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.oracles.sample import Float


def conformal_p(calibration: NDArray[np.floating], scores: NDArray[np.floating]) -> Float:
    """(1 + #{calibration >= s}) / (n + 1) (Bates et al. 2023, equation 2): one comparison a pair."""
    counts = [sum(bool(c >= s) for c in calibration) for s in scores]
    return (1.0 + np.array(counts, np.float64)) / (len(calibration) + 1.0)


def fisher(p: Float) -> Float:
    """-2 sum log p (Fisher 1932)."""
    return -2.0 * np.log(p).sum(axis=1)


def min_p(p: Float) -> Float:
    """-log min p (Tippett 1931): Fused documents the logarithm, which keeps the order."""
    return -np.log(p.min(axis=1))


def cauchy(p: Float) -> Float:
    """The mean of tan((1/2 - p) pi) (Liu & Xie 2020, equation 1) with p cut at 0.99, as Fused documents."""
    return np.tan((0.5 - np.minimum(p, 0.99)) * np.pi).mean(axis=1)


def weighted_min_p(p: Float, weights: Float) -> Float:
    """-log min p_i / w_i, the weights scaled to mean 1 (Genovese, Roeder & Wasserman 2006)."""
    return -np.log((p / (weights / weights.mean())).min(axis=1))


def two_sided(p: Float) -> Float:
    """1 - 2 min(p, 1 - p): one minus the two-sided p-value."""
    return 1.0 - 2.0 * np.minimum(p, 1.0 - p)


def flagged(p: Float, level: float) -> Float:
    """Row by row, whether any p-value is at or below the level; p-values are float32, and so is the level."""
    return np.array([float(any(np.float32(x) <= np.float32(level) for x in row)) for row in p])
