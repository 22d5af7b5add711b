"""Shares of units and their intervals: exact where units stand alone, resampled where they come in clusters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.detectors.promises import binomial
from demur.monitor.evaluate.bootstrap import Resampler
from demur.monitor.evaluate.counts import share
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
    hit: NDArray[np.bool_],
    chosen: NDArray[np.bool_],
    cluster: NDArray[np.int64] | None,
    confidence: float,
    draws: int,
    seed: int,
) -> Checked:
    """The share of `hit` among the `chosen` units, (N,) each, Clopper-Pearson.

    With clusters (N,) a unit weighs 1 / cluster size, as in promises about grouped rows. Clusters are then resampled whole,
    `draws` times; without draws there is no interval and `least` is 0.
    """
    part, whole = int(np.count_nonzero(hit & chosen)), int(np.count_nonzero(chosen))
    if not whole:
        return Checked(0, 0, Estimate(math.nan), 0.0)
    if cluster is None:
        return Checked(part, whole, exact_share(part, whole, confidence), binomial.lower(part, whole, 1 - PROOF))
    hits, units = cluster_shares(hit & chosen, cluster), cluster_shares(chosen, cluster)
    value = float(hits.sum() / units.sum())
    if not draws:
        return Checked(part, whole, Estimate(value), 0.0)
    resampler = Resampler(np.zeros(len(units), np.int64), None, draws, seed, confidence)
    found = np.concatenate([share(hits @ weights, units @ weights) for weights in resampler.weights(256)])
    limits = resampler.interval(found)
    if limits is None:
        return Checked(part, whole, Estimate(value), 0.0)
    return Checked(part, whole, Estimate(value, *limits), float(np.nanquantile(found, 1 - PROOF)))


def cluster_shares(hit: NDArray[Any], cluster: NDArray[np.int64]) -> NDArray[np.float64]:
    """(G,) the share of `hit` among all units of each cluster, or the mean of losses."""
    _, index, sizes = np.unique(cluster, return_inverse=True, return_counts=True)
    return np.bincount(index, weights=hit.astype(np.float64), minlength=len(sizes)) / sizes
