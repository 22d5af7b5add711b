"""The model's last linear layer, recovered from its inputs and outputs when nobody exported it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from demur.monitor.fit.errors import TableError

LARGEST_RESIDUAL = 1e-3
SPARE_ROWS = 16
BATCH_ROWS = 8192


class Head(NamedTuple):
    """logits = features @ weight.T + bias: weight (C, D), bias (C,) float32; relative residual of the fit, 0 is exact."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    residual: float


def recover_head(features: NDArray[Any], logits: NDArray[Any]) -> Head:
    """Least squares in float64 over batches; features (N, D), logits (N, C), finite; may be memory-mapped.

    The residual is the norm of what the head leaves unexplained over the norm of the centred logits. Directions in
    which features do not vary get weight 0.
    Raises: TableError when rows are unequal, not finite or too few to tell, or the relative residual is above 1e-3.
    """
    if features.ndim != 2 or logits.ndim != 2 or len(features) != len(logits) or not len(features):
        raise TableError(f"head: expected features (N, D) and logits (N, C), got {features.shape} and {logits.shape}")
    x_mean, y_mean = _mean(features, "features"), _mean(logits, "logits")
    xx = np.zeros((features.shape[1],) * 2)
    xy = np.zeros((features.shape[1], logits.shape[1]))
    for x, y in _centred(features, logits, x_mean, y_mean):
        xx += x.T @ x
        xy += x.T @ y
    solution, rank = _solve(xx, xy)
    if len(features) < rank + 1 + SPARE_ROWS:
        raise TableError(
            f"head: expected at least {rank + 1 + SPARE_ROWS} rows to recover it from {rank} independent features, "
            f"got {len(features)}; add rows, or give head_weight (C, D) and head_bias (C,)"
        )
    residual = _residual(features, logits, x_mean, y_mean, solution)
    if residual > LARGEST_RESIDUAL:
        raise TableError(
            f"head: expected logits to be an affine function of features, got a relative residual of {residual:.2g} "
            f"(at most {LARGEST_RESIDUAL:g}); take features right before the last linear layer, or give head_weight"
        )
    return Head(solution.T.astype(np.float32), (y_mean - x_mean @ solution).astype(np.float32), residual)


def _mean(array: NDArray[Any], name: str) -> NDArray[np.float64]:
    total = np.zeros(array.shape[1])
    for start in range(0, len(array), BATCH_ROWS):
        total += array[start : start + BATCH_ROWS].sum(axis=0, dtype=np.float64)
    if not np.isfinite(total).all():
        raise TableError(f"head: expected finite {name}, got NaN or infinity; drop those rows")
    return total / len(array)


def _centred(features: NDArray[Any], logits: NDArray[Any], x_mean: Any, y_mean: Any) -> Any:
    for start in range(0, len(features), BATCH_ROWS):
        part = slice(start, start + BATCH_ROWS)
        yield features[part].astype(np.float64) - x_mean, logits[part].astype(np.float64) - y_mean


def _solve(xx: NDArray[np.float64], xy: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    values, vectors = np.linalg.eigh(xx)
    kept = values > values[-1] * len(xx) * np.finfo(np.float64).eps
    basis = vectors[:, kept]
    return basis @ ((basis.T @ xy) / values[kept, None]), int(kept.sum())


def _residual(features: NDArray[Any], logits: NDArray[Any], x_mean: Any, y_mean: Any, solution: Any) -> float:
    left = total = 0.0
    for x, y in _centred(features, logits, x_mean, y_mean):
        left += float(np.square(y - x @ solution).sum())
        total += float(np.square(y).sum())
    return float(np.sqrt(left / total)) if total > 0 else 0.0
