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


def largest(h: Float, percentile: float) -> Float:
    """The D - round(D q / 100) largest entries of one row."""
    return np.sort(h)[::-1][: len(h) - round(len(h) * percentile / 100)]


def sums_ratio(h: Float, percentile: float) -> float:
    """s1 / s2: sum of relu h over the sum of its largest; 1 for a row without a positive entry."""
    active = np.maximum(h, 0.0)
    return float(active.sum() / largest(active, percentile).sum()) if active.any() else 1.0


def ash(features: Float, percentile: float, variant: str) -> Float:
    """Of each row keep the largest (Djurisic et al. 2023, section 3): p as they are, b all equal with the same sum as
    before, s times exp(sum before / sum after). What ties with the smallest kept is kept; what is not positive is not."""
    out = np.zeros_like(features)
    for row, h in enumerate(features):
        kept = (h >= largest(h, percentile)[-1]) & (h > 0)
        if variant == "b" and kept.any():
            out[row, kept] = np.maximum(h, 0.0).sum() / kept.sum()
        else:
            out[row, kept] = h[kept] * (np.exp(sums_ratio(h, percentile)) if variant == "s" else 1.0)
    return out


def scale(features: Float, percentile: float) -> Float:
    """h exp(s1 / s2): nothing pruned (Xu et al. 2024, equation 5)."""
    return features * np.exp([[sums_ratio(h, percentile)] for h in features])


def lts(features: Float, logits: Float, percentile: float = 95.0) -> Float:
    """z S^2, S = sum relu h / sum of the largest 5 % of relu h (Djurisic et al. 2024)."""
    return logits * np.array([[sums_ratio(h, percentile) ** 2] for h in features])


def standardise(sample: Sample, features: Float) -> Float:
    """(h - mean) / standard deviation in each dimension; a constant dimension is only centred."""
    deviation = sample.features.std(axis=0)
    return (features - sample.features.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
