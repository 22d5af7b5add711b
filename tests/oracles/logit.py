"""Scores of logits z (N, C)."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp, softmax

from tests.oracles.sample import Float


def msp(logits: Float) -> Float:
    """1 - max_c softmax(z)_c (Hendrycks and Gimpel 2017)."""
    return 1.0 - softmax(logits, axis=1).max(axis=1)


def msp_without_cancellation(logits: Float) -> Float:
    """The same number as the probability of every class but the largest: exact where the softmax rounds to 1."""
    winner = logits.argmax(axis=1)
    others = np.array([np.delete(z, c) for z, c in zip(logits, winner, strict=True)])
    return np.exp(logsumexp(others, axis=1) - logsumexp(logits, axis=1))


def max_logit(logits: Float) -> Float:
    """-max_c z_c (Hendrycks et al. 2022)."""
    return -logits.max(axis=1)


def energy(logits: Float, temperature: float = 1.0) -> Float:
    """-T log sum_c exp(z_c / T) (Liu et al. 2020, equation 4)."""
    return -temperature * logsumexp(logits / temperature, axis=1)


def entropy(logits: Float) -> Float:
    """-sum_c p_c log p_c in nats, 0 log 0 = 0."""
    log_p = logits - logsumexp(logits, axis=1, keepdims=True)
    return -(np.exp(log_p) * log_p).sum(axis=1)
