"""Shares of units and their intervals: exact where units stand alone, resampled where they come in clusters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demur.detectors.promises import binomial
from demur.monitor.evaluate.bootstrap import Resampler
from demur.monitor.evaluate.estimate import Estimate, exact_share

PROOF = 0.99  # a promise counts as contradicted when this one-sided lower bound lies above it


@dataclass(frozen=True)
class Checked:
    """A realised share: `least` is its one-sided 99 % lower bound."""

    part: int
    whole: int
    share: Estimate
    least: float


def realised(
    hit: NDArray[np.bool_], cluster: NDArray[np.int64] | None, confidence: float, draws: int, seed: int
) -> Checked:
    """The share of `hit` (N,) units, Clopper-Pearson; with clusters (N,), the mean of the clusters' shares.

    Clusters are resampled whole, `draws` times; without draws there is no interval and `least` is 0.
    """
    part, whole = int(np.count_nonzero(hit)), len(hit)
    if not whole:
        return Checked(0, 0, Estimate(math.nan), 0.0)
    if cluster is None:
        return Checked(part, whole, exact_share(part, whole, confidence), binomial.lower(part, whole, 1 - PROOF))
    means = cluster_means(hit, cluster)
    if not draws:
        return Checked(part, whole, Estimate(float(means.mean())), 0.0)
    resampler = Resampler(np.zeros(len(means), np.int64), None, draws, seed, confidence)
    found = np.concatenate([means @ weights / len(means) for weights in resampler.weights(256)])
    low, high = resampler.interval(found) or (0.0, 1.0)
    return Checked(part, whole, Estimate(float(means.mean()), low, high), float(np.quantile(found, 1 - PROOF)))


def cluster_means(hit: NDArray[np.bool_], cluster: NDArray[np.int64]) -> NDArray[np.float64]:
    """(G,) the share of `hit` in each cluster: rows weigh 1 / cluster size, as in promises about grouped rows."""
    _, index, sizes = np.unique(cluster, return_inverse=True, return_counts=True)
    return np.bincount(index, weights=hit.astype(np.float64), minlength=len(sizes)) / sizes
