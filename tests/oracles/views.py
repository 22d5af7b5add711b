"""Scores of several views of one input: logits (N, V, C), or rotation logits (N, 4, 4)."""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax, logsumexp, softmax

from tests.oracles.sample import Float


def entropy(p: Float) -> Float:
    """-sum p log p over the last axis, 0 log 0 = 0."""
    return -np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0).sum(axis=-1)


def cover(logits: Float, by: str = "msp", temperature: float = 1.0) -> Float:
    """Mean over the views of -max softmax(z / T), or of -T logsumexp(z / T) (Chen et al. 2024, CoVer)."""
    if by == "energy":
        return -temperature * logsumexp(logits / temperature, axis=2).mean(axis=1)
    return -softmax(logits / temperature, axis=2).max(axis=2).mean(axis=1)


def predictive_entropy(logits: Float) -> Float:
    """Entropy of the mean posterior."""
    return entropy(softmax(logits, axis=2).mean(axis=1))


def bald(logits: Float) -> Float:
    """Entropy of the mean less the mean of the entropies, as the mean KL to the mean (Houlsby et al. 2011): no cancellation."""
    log_p = log_softmax(logits, axis=2)
    log_mean = logsumexp(log_p, axis=1, keepdims=True) - np.log(logits.shape[1])
    return (np.exp(log_p) * (log_p - log_mean)).sum(axis=2).mean(axis=1)


def variation_ratio(logits: Float) -> Float:
    """Share of the views that do not vote for the class most voted for."""
    votes, views = logits.argmax(axis=2), logits.shape[1]
    return np.array([1 - np.bincount(row).max() / views for row in votes])


def total_variation(logits: Float) -> Float:
    """Mean over the pairs of views of half the L1 distance of their posteriors."""
    p, views = softmax(logits, axis=2), logits.shape[1]
    pairs = [(i, j) for i in range(views) for j in range(i)]
    return np.mean([0.5 * np.abs(p[:, i] - p[:, j]).sum(axis=1) for i, j in pairs], axis=0)


def posterior_variance(logits: Float) -> Float:
    """Sum over the classes of the variance over the views of the posterior."""
    return softmax(logits, axis=2).var(axis=1).sum(axis=1)


def rotation(logits: Float) -> Float:
    """sum_r -log softmax(z_r)_r: how badly the turns of the input are told (Hendrycks et al. 2019)."""
    return -sum(log_softmax(logits[:, r], axis=1)[:, r] for r in range(logits.shape[1]))
