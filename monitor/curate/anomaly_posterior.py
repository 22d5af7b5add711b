"""Whether auxiliary anomalies are worth learning from: realistic, and distinguishable from normal rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.monitor.curate.checked import CurationError, block_rows, matrix

Float64 = NDArray[np.float64]
SUBSETS, LEAST_K, QUANTILE = 100, 5, 0.95


def expected_anomaly_posterior(
    candidates: Any,
    normals: Any,
    anomalies: Any,
    *,
    classifier: Callable[[], Any] | None = None,
    contamination: float | None = None,
    k: int | None = None,
    subsets: int = SUBSETS,
    seed: int = 0,
) -> Float64:
    """(c,) expected posterior that each candidate is an anomaly; higher is better material.

    Over random subsets of the normals, with all known anomalies: a classifier gives P(anomaly | x); the density d(x) is
    the share of x in the inverse rarities, where rarity is the radius of the smallest ball that holds x among the
    normals' balls up to their k-th neighbour; the posterior (prior + n d P) / (1 + n d) is averaged. A candidate in no
    ball gets exactly the prior `contamination` (default: share of the known anomalies): it is far from everything, so
    nothing can be learnt from it. A candidate that looks normal gets less.
    k: None takes the 95 % quantile of a Beta posterior over the k that the known anomalies need, at least 5.
    Shapes: candidates (c, D), normals (n, D), anomalies (m, D). classifier() has fit and predict_proba with classes 0
    and 1. Cost O(subsets (fit + n^2 D)), temporaries of 16 MiB.
    Raises: CurationError for other shapes, values that are not finite, fewer than k + 2 normals.
    Source: Perini et al. 2024, arXiv:2405.13699 (EAP); differs: the known anomalies are in every subset.
    """
    rows = matrix(normals, "normals", least=(k or LEAST_K) + 2)
    known = matrix(anomalies, "anomalies")
    new = matrix(candidates, "candidates")
    if not rows.shape[1] == known.shape[1] == new.shape[1]:
        raise CurationError(f"expected one width, got {rows.shape[1]}, {known.shape[1]} and {new.shape[1]}")
    prior = len(known) / (len(rows) + len(known)) if contamination is None else contamination
    rng = np.random.default_rng(seed)
    least = (k or LEAST_K) + 1
    total = np.zeros(len(new))
    for _ in range(subsets):
        share = rng.uniform(min(0.98, (least + len(known)) / len(rows)), 0.99)
        order, size = rng.permutation(len(rows)), int(rng.binomial(len(rows), share))
        subset = rows[np.sort(order[: max(least, size)])]
        doubt = _anomaly_probability(classifier or _forest(seed), subset, known, new)
        weight = len(subset) * density(new, subset, k or _needed_k(subset, known))
        total += (prior + weight * doubt) / (1 + weight)
    return total / subsets


def density(points: Float64, normals: Float64, k: int) -> Float64:
    """(c,) share of each point in the inverse rarities of itself and the normals; 0 in no ball."""
    k = min(k, len(normals) - 1)
    own = _distances(normals, normals, keep=k)[:, k]
    radius = np.maximum(own, own[own > 0].min() if (own > 0).any() else 1.0)
    mass = (1 / _rarity(normals, normals, radius)).sum()
    inverse = 1 / _rarity(points, normals, radius)
    return np.asarray(inverse / (inverse + mass))


def _rarity(points: Float64, normals: Float64, radius: Float64) -> Float64:
    """(c,) the radius of the smallest ball around a normal that holds the point; infinite in none."""
    smallest = np.empty(len(points))
    step = block_rows(len(normals))
    for start in range(0, len(points), step):
        apart = _apart(points[start : start + step], normals)
        smallest[start : start + step] = np.where(apart <= radius, radius, np.inf).min(axis=1)
    return smallest


def _needed_k(normals: Float64, known: Float64) -> int:
    """The k with which the known anomalies would lie in balls, with a margin."""
    most = len(normals) - 1
    if most <= LEAST_K:
        return most
    needed = np.full(len(known), most)
    to_known = _apart(known, normals)
    step = block_rows(len(normals))
    for start in range(0, len(normals), step):
        apart = np.sort(_apart(normals[start : start + step], normals), axis=1)[:, 1:]
        for place, inner in enumerate(apart):
            rank = np.searchsorted(inner, to_known[:, start + place], side="left") + 1
            needed = np.minimum(needed, rank)
    share = np.clip(needed - LEAST_K, 0, None) / (most - LEAST_K)
    from scipy.stats import beta

    quantile = beta.ppf(QUANTILE, 1 + share.sum(), 1 + len(share) - share.sum())
    return int(np.clip(int(quantile * (most - LEAST_K)) + LEAST_K, LEAST_K, most))


def _distances(points: Float64, normals: Float64, keep: int) -> Float64:
    """(c, keep + 1) the nearest distances, sorted."""
    step = block_rows(len(normals))
    parts = [np.sort(_apart(points[s : s + step], normals), axis=1)[:, : keep + 1] for s in range(0, len(points), step)]
    return np.concatenate(parts)


def _apart(points: Float64, others: Float64) -> Float64:
    from scipy.spatial.distance import cdist

    return np.asarray(cdist(points, others))


def _anomaly_probability(classifier: Callable[[], Any], normals: Float64, known: Float64, points: Float64) -> Float64:
    rows = np.concatenate([normals, known])
    target = np.concatenate([np.zeros(len(normals), np.int64), np.ones(len(known), np.int64)])
    return np.asarray(classifier().fit(rows, target).predict_proba(points)[:, 1], np.float64)


def _forest(seed: int) -> Callable[[], Any]:
    def make() -> Any:
        from sklearn.ensemble import RandomForestClassifier

        return RandomForestClassifier(50, random_state=seed)

    return make
