"""Transforms of features h (N, D) and logits z (N, C) that come before a score."""

from __future__ import annotations

import numpy as np

from tests.oracles.sample import Float, Sample


def order_statistic(values: Float, quantile: float) -> float:
    """The ceil(q n)-th smallest of all values."""
    ordered = np.sort(values, axis=None)
    return float(ordered[max(1, int(np.ceil(quantile * ordered.size))) - 1])


def vra(features: Float, low: Float | float, high: Float | float) -> Float:
    """0 below `low`, h between, `high` above (Xu et al. 2023, equation 10)."""
    return np.where(features < low, 0.0, np.where(features > high, high, features))


def vra_plus(features: Float, low: Float | float, high: Float | float, gamma: float) -> Float:
    """0 below `low`, h + gamma between, `high` above: the official code shifts first and moves the limits with it."""
    shifted = features + gamma
    return np.where(shifted < low + gamma, 0.0, np.where(shifted > high + gamma, high, shifted))


def dice_weight(sample: Sample, percentile: float) -> Float:
    """W where the mean contribution E[h]_d W_cd is among the largest, 0 elsewhere (Sun and Li 2022, section 3)."""
    contribution = sample.features.mean(axis=0) * sample.head_weight
    return np.where(contribution > order_statistic(contribution, percentile / 100), sample.head_weight, 0.0)


def ash(features: Float, percentile: float, variant: str) -> Float:
    """Keep the D - round(D q / 100) largest (Djurisic et al. 2023, section 3): p as they are, b all equal to the sum over
    their number, s times exp(sum before / sum after). A row without anything left stays zero."""
    out = np.zeros_like(features)
    keep = features.shape[1] - round(features.shape[1] * percentile / 100)
    for row, h in enumerate(features):
        kept = np.argsort(-h, kind="stable")[:keep]
        if variant == "b":
            out[row, kept] = h.sum() / keep
        else:
            out[row, kept] = h[kept]
        if variant == "s" and h[kept].sum() > 0:
            out[row] *= np.exp(h.sum() / h[kept].sum())
    return out


def scale(features: Float, percentile: float) -> Float:
    """h exp(s1 / s2): nothing pruned (Xu et al. 2024, equation 5)."""
    keep = features.shape[1] - round(features.shape[1] * percentile / 100)
    largest = -np.sort(-features, axis=1)[:, :keep].sum(axis=1)
    ratio = np.divide(features.sum(axis=1), largest, out=np.zeros(len(features)), where=largest > 0)
    return features * np.exp(ratio)[:, None]


def lts(features: Float, logits: Float, share: float = 0.05) -> Float:
    """z S^2, S = sum relu h / sum of the largest `share` of relu h (Djurisic et al. 2024)."""
    active = np.maximum(features, 0.0)
    keep = max(1, round(features.shape[1] * share))
    largest = -np.sort(-active, axis=1)[:, :keep].sum(axis=1)
    ratio = np.divide(active.sum(axis=1), largest, out=np.ones(len(features)), where=largest > 0)
    return logits * ratio[:, None] ** 2


def standardise(sample: Sample, features: Float) -> Float:
    """(h - mean) / standard deviation in each dimension; a constant dimension is only centred."""
    deviation = sample.features.std(axis=0)
    return (features - sample.features.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
