"""Which of many auxiliary outliers to learn from: diverse ones that look most like known data."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.monitor.curate.checked import CurationError, matrix, vector
from demur.monitor.curate.label_noise import unit_rows

RESTARTS = 5


def choose_outliers(features: Any, risk: Any, size: int, *, clusters: int = 64, seed: int = 0) -> NDArray[np.int64]:
    """Sorted indices (size,) of the chosen rows.

    The features' unit vectors are clustered by k-means; each cluster gives its floor(size / clusters) rows of lowest
    `risk` (any score, higher is less trustworthy: the lowest is the most like known data). Places that small clusters
    leave empty are filled at random from the rest.
    Shapes: features (n, D), risk (n,). Cost: one k-means of n rows, 5 starts. Deterministic in the seed.
    Raises: CurationError for sizes beyond n, more clusters than places, values that are not finite.
    Source: Jiang et al. 2024, arXiv:2306.02031 (DOS), algorithm 1; differs: once over all rows instead of once a batch.
    """
    from sklearn.cluster import KMeans

    rows = matrix(features, "features")
    danger = vector(risk, "risk", len(rows))
    if not 1 <= clusters <= size <= len(rows):
        raise CurationError(f"expected 1 <= clusters <= size <= {len(rows)} rows, got {clusters} clusters, size {size}")
    units = unit_rows(rows)
    different = len(np.unique(units, axis=0))
    means = KMeans(min(clusters, different), n_init=RESTARTS, random_state=seed).fit(units)
    each = size // clusters
    order = np.lexsort((danger, means.labels_))
    place = means.labels_[order]
    rank = np.arange(len(order)) - np.searchsorted(place, place)
    chosen = order[rank < each]
    rest = np.setdiff1d(np.arange(len(rows)), chosen)
    filled = np.random.default_rng(seed).choice(rest, size - len(chosen), replace=False)
    return np.sort(np.concatenate([chosen, filled])).astype(np.int64)
