"""What a perturbation may know beside the row: how the data spread, and other rows to take from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from demur.monitor.perturb.errors import PerturbationError

Float64 = NDArray[np.float64]
POOL_ROWS = 4096
BLOCK_VALUES = 1 << 21


@dataclass(frozen=True, eq=False)
class Context:
    """mean and std over the finite rows, with the shape of one row; a pool (M, ...) of at most 4,096 of them."""

    mean: Float64
    std: Float64
    pool: Float64

    @classmethod
    def of(cls, rows: NDArray[Any], seed: int = 0) -> Self:
        """From rows (N, ...) of floats, in blocks; the pool is a seeded sample without replacement.

        Raises: PerturbationError when no row is finite.
        """
        axes = tuple(range(1, rows.ndim))
        step = max(1, BLOCK_VALUES // rows[0].size)
        starts = range(0, len(rows), step)
        whole = np.concatenate([np.isfinite(rows[s : s + step]).all(axis=axes) for s in starts])
        good = np.flatnonzero(whole)
        if not len(good):
            raise PerturbationError(f"expected at least one row without NaN or infinity, got {len(rows)} with")
        parts = [rows[s : s + step][whole[s : s + step]].astype(np.float64) for s in starts]
        mean = sum((part / len(good)).sum(axis=0) for part in parts)
        spread = sum(((part - mean) ** 2 / len(good)).sum(axis=0) for part in parts)
        chosen = np.sort(np.random.default_rng(seed).permutation(good)[:POOL_ROWS])
        return cls(np.asarray(mean), np.sqrt(spread), rows[chosen].astype(np.float64))

    def partner(self, row: Float64, rng: np.random.Generator) -> Float64:
        """A row of the pool that differs from `row`; `row` itself when there is none."""
        first = int(rng.integers(len(self.pool)))
        for step in range(len(self.pool)):
            other = self.pool[(first + step) % len(self.pool)]
            if not np.array_equal(other, row):
                return np.asarray(other)
        return row
