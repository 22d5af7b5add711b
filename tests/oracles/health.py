"""Health of the network's own numbers."""

from __future__ import annotations

from tests.oracles.sample import Float


def activation_kurtosis(features: Float) -> Float:
    """E[x^4] / s^4 - 3 of each row: uncentred fourth moment, unbiased variance s^2 (OSP, evaluate_kurtosis.py).

    OSP cuts it off at 0; ActivationKurtosis documents that it does not.
    """
    fourth = (features**4).mean(axis=1)
    variance = features.var(axis=1, ddof=1)
    return fourth / variance**2 - 3.0
