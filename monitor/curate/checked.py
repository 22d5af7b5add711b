"""Arrays that a curation tool can use, or a clear refusal."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.monitor.errors import DemurError

BLOCK_VALUES = 1 << 21  # float64 values in one temporary: 16 MiB


class CurationError(DemurError, ValueError):
    """Data that a curation tool cannot judge."""


def matrix(array: Any, name: str, rows: int | None = None, least: int = 1) -> NDArray[np.float64]:
    """(n, D) float64, finite, with at least `least` rows.

    Raises: CurationError.
    """
    values = np.asarray(array, np.float64)
    if values.ndim != 2 or values.shape[1] == 0 or len(values) < least or rows not in (None, len(values)):
        expected = f"({rows if rows is not None else f'at least {least}'}, D)"
        raise CurationError(f"{name}: expected {expected}, got {values.shape}")
    return _finite(values, name)


def vector(array: Any, name: str, rows: int) -> NDArray[np.float64]:
    """(n,) float64, finite; (n, 1) is taken as (n,).

    Raises: CurationError.
    """
    values = np.asarray(array, np.float64)
    values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    if values.shape != (rows,):
        raise CurationError(f"{name}: expected ({rows},), one value a row, got {values.shape}")
    return _finite(values, name)


def _finite(values: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    if len(bad):
        raise CurationError(f"{name}: {len(bad)} rows hold NaN or infinity (first: row {bad[0]}); drop them first")
    return values


def block_rows(width: int) -> int:
    """How many rows of `width` values fit into one temporary."""
    return max(1, BLOCK_VALUES // max(1, width))
