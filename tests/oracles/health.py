"""Health of the network's own numbers."""

from __future__ import annotations

import numpy as np

from tests.oracles.sample import Float


def activation_kurtosis(features: Float) -> Float:
    """E[x^4] / s^4 - 3 of each row: uncentred fourth moment, unbiased variance s^2 (OSP, evaluate_kurtosis.py).

    OSP cuts it off at 0; ActivationKurtosis documents that it does not.
    """
    fourth = (features**4).mean(axis=1)
    variance = features.var(axis=1, ddof=1)
    return fourth / variance**2 - 3.0


def largest_over_typical(features: Float, typical: float) -> Float:
    """max |a| over a typical |a| of the layer (An et al. 2025)."""
    return np.abs(features).max(axis=1) / typical


def largest_over_median(features: Float) -> Float:
    """max |a| over the row's own median |a| (Sun et al. 2024)."""
    return np.abs(features).max(axis=1) / np.median(np.abs(features), axis=1)


def outlier_dimensions(reference: Float, features: Float, factor: float = 5.0) -> Float:
    """max of (h_d - mu_d)^2 over the mean variance, over the dimensions whose variance is below `factor` times the mean
    (Rudman et al. 2023)."""
    variance = reference.var(axis=0)
    ordinary = variance < factor * variance.mean()
    squares = (features - reference.mean(axis=0))[:, ordinary] ** 2
    return squares.max(axis=1, initial=0.0) / variance.mean()


def share_at_least(features: Float, bound: float) -> Float:
    """Share of |a| >= bound: of LLM.int8's 6 (Dettmers et al. 2022), or of a quantisation range."""
    return (np.abs(features) >= bound).mean(axis=1)


def attention_sink(sums: Float) -> Float:
    """Largest column sum over the sum of all (An et al. 2025)."""
    return sums.max(axis=1) / sums.sum(axis=1)
