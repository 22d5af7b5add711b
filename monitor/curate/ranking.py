"""Which columns go with errors or alarms, corrected for what a column of so many values shows by chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from demur.monitor.curate.checked import CurationError

BINS, NULLS = 16, 50


class RankedColumn(NamedTuple):
    """information: I(column; target) in nats; gain: that minus its mean over shuffled targets; p: (1 + #{null >= it}) / (nulls + 1)."""

    name: str
    information: float
    gain: float
    p: float


def rank_columns(
    columns: Mapping[str, Any], target: Any, *, nulls: int = NULLS, bins: int = BINS, seed: int = 0
) -> list[RankedColumn]:
    """Columns (n,) by how much more they say of the target (n,) than of shuffled targets, most first.

    Floats with more than `bins` values are cut at their quantiles; everything else is taken as categories. The same
    shuffles serve every column. A column of unique values has much information and no gain. p is of one column alone:
    of 100 columns about five have p <= 0.05 by chance.
    Raises: CurationError for other lengths, floats that are not finite, a target with fewer than two values.
    Source: own form of the corrected mutual information of OutRank (Škrlj & Mramor 2023, arXiv:2309.01552): our null
    shuffles the target.
    """
    y = _categories(target, bins, "target")
    if len(y) == 0 or y.max() == 0:
        raise CurationError("target: expected at least two different values, got one; there is nothing to explain")
    rng = np.random.default_rng(seed)
    shuffled = [rng.permutation(y) for _ in range(nulls)]
    ranked = []
    for name, values in columns.items():
        x = _categories(values, bins, name)
        if len(x) != len(y):
            raise CurationError(f"{name}: expected {len(y)} values, one for each row, got {len(x)}")
        found = mutual_information(x, y)
        null = np.array([mutual_information(x, other) for other in shuffled])
        p = (1 + int((null >= found - 1e-12).sum())) / (nulls + 1)
        ranked.append(RankedColumn(name, found, found - float(null.mean()) if nulls else found, p))
    return sorted(ranked, key=lambda column: -column.gain)


def mutual_information(x: NDArray[np.int64], y: NDArray[np.int64]) -> float:
    """I(X; Y) in nats of two dense codes (n,)."""
    pairs = np.unique(x * (int(y.max()) + 1) + y, return_counts=True)[1]
    return max(0.0, _entropy(np.bincount(x)) + _entropy(np.bincount(y)) - _entropy(pairs))


def _entropy(counts: NDArray[np.int64]) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def _categories(values: Any, bins: int, name: str) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1:
        raise CurationError(f"{name}: expected (n,), one value a row, got {array.shape}")
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise CurationError(f"{name}: expected finite values, got NaN or infinity; fill or drop those rows")
        if len(np.unique(array)) > bins:
            edges = np.quantile(array, np.linspace(0, 1, bins + 1)[1:-1])
            array = np.searchsorted(edges, array, side="right")
    return np.unique(array, return_inverse=True)[1].astype(np.int64)
