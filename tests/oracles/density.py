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


def mixture_of(centre: Float, whiten: Float, offsets: Float, log_weights: Float) -> tuple[Float, Float, Float]:
    """Weights, means and covariances of a stored mixture: EM is random, so its result is read, not repeated.

    whiten (D, K D) holds W_k side by side with W_k W_k' the precision; offsets are (mu_k - centre) W_k; log_weights are
    log pi_k + log |W_k| - D / 2 log(2 pi).
    """
    width, count = len(centre), len(log_weights)
    factors = [whiten[:, k * width : (k + 1) * width] for k in range(count)]
    means = [centre + np.linalg.solve(w.T, offsets[k * width : (k + 1) * width]) for k, w in enumerate(factors)]
    covariances = [np.linalg.inv(w @ w.T) for w in factors]
    half_log_precisions = np.array([np.linalg.slogdet(w)[1] for w in factors])
    weights = np.exp(log_weights - half_log_precisions + 0.5 * width * np.log(2.0 * np.pi))
    return weights, np.array(means), np.array(covariances)
