"""Which outliers to learn from: diverse ones, and of each kind the most ordinary."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from demur.detectors.learned.layer import Float64


def diverse(rows: Float64, risk: Float64, count: int, clusters: int, seed: int) -> NDArray[np.int64]:
    """Places of `count` rows: of each k-means cluster of the unit rows the count // clusters of least risk, then, where
    clusters are too small, rows drawn from the rest; ascending.

    rows (n, D), risk (n,), 1 <= clusters <= count <= n.
    Source: Jiang et al. 2024 (DOS), algorithm 1.
    """
    from sklearn.cluster import KMeans  # a third of a second to import
    from threadpoolctl import threadpool_limits

    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    units = rows / np.where(lengths > 0, lengths, 1.0)
    with threadpool_limits(1):
        of = KMeans(clusters, n_init=5, random_state=seed).fit_predict(units)
    order = np.lexsort((np.arange(len(rows)), risk))
    each = count // clusters
    kept = np.concatenate([order[of[order] == c][:each] for c in range(clusters)])
    rest = np.setdiff1d(np.arange(len(rows)), kept)
    filled = np.random.default_rng(seed).choice(rest, count - len(kept), replace=False)
    return np.sort(np.concatenate([kept, filled]))
