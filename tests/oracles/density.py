"""Gaussian mixture density of features, given the parameters of the mixture."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from tests.oracles.sample import Float


def gmm(features: Float, weights: Float, means: Float, covariances: Float) -> Float:
    """-log sum_k pi_k N(h; mu_k, S_k); weights (K,), means (K, D), covariances (K, D, D)."""
    terms = [
        np.log(weight) + np.atleast_1d(multivariate_normal.logpdf(features, mean, matrix))
        for weight, mean, matrix in zip(weights, means, covariances, strict=True)
    ]
    return -logsumexp(terms, axis=0)
