"""What one pass over a table says about each of its signals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demur.monitor.fit.table import SignalsTable

TOLERANCE = 1e-3
HALF_TOLERANCE = 1e-2  # a sum over float16 probabilities is this far from 1 at C = 1000
KEPT_ROWS = 6
SEED = 20_261_124


@dataclass(frozen=True, eq=False)
class SignalProfile:
    """Statistics of one signal over N rows, those of columns over the finite rows only.

    broken: how many rows are not finite, first_broken the first of them; low, high (width,) the range of each column;
    keys (width,) a 64-bit key of each column's contents: equal columns have equal keys; distributions: rows that are
    non-negative and sum to 1; log_distributions: rows whose logsumexp is 0; unit: every value is in [0, 1].
    """

    name: str
    width: int
    rows: int
    broken: int
    first_broken: tuple[int, ...]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    keys: NDArray[np.uint64]
    distributions: int
    log_distributions: int
    unit: bool

    @property
    def finite(self) -> int:
        return self.rows - self.broken

    @property
    def constant(self) -> NDArray[np.bool_]:
        """(width,) which columns hold one value in every finite row; all False with fewer than two such rows."""
        return np.equal(self.low, self.high) & np.bool_(self.finite > 1)


class _Running:
    """A SignalProfile in the making."""

    def __init__(self, name: str, width: int, tolerance: float) -> None:
        self.name, self.width, self.tolerance = name, width, tolerance
        self.rows = self.distributions = self.log_distributions = 0
        self.broken: list[int] = []
        self.broken_count = 0
        self.low = np.full(width, np.inf, np.float32)
        self.high = np.full(width, -np.inf, np.float32)
        self.keys = np.zeros(width, np.uint64)
        self.unit = True

    def add(self, part: NDArray[np.float32], factors: NDArray[np.uint64]) -> None:
        finite = np.isfinite(part).all(axis=1)
        bad = np.flatnonzero(~finite)
        self.broken_count += len(bad)
        self.broken += (bad[: KEPT_ROWS - len(self.broken)] + self.rows).tolist()
        self.rows += len(part)
        if len(bad):
            part, factors = part[finite], factors[finite]
        if len(part):
            self._add_finite(part, factors)

    def _add_finite(self, part: NDArray[np.float32], factors: NDArray[np.uint64]) -> None:
        low, high = part.min(axis=0), part.max(axis=0)
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        bits = (part + np.float32(0)).view(np.uint32).astype(np.uint64)
        self.keys += factors @ bits  # wraps modulo 2^64: multilinear hashing
        self.unit = self.unit and bool(low.min() >= -self.tolerance and high.max() <= 1 + self.tolerance)
        if self.width > 1:
            self.distributions += _distributions(part, self.tolerance)
            self.log_distributions += _log_distributions(part, self.tolerance)

    def finished(self) -> SignalProfile:
        return SignalProfile(
            self.name,
            self.width,
            self.rows,
            self.broken_count,
            tuple(self.broken),
            self.low,
            self.high,
            self.keys,
            self.distributions,
            self.log_distributions,
            self.unit,
        )


def profiles(table: SignalsTable) -> dict[str, SignalProfile]:
    """One profile for each signal, in one pass over the table and in bounded memory."""
    running = {
        name: _Running(name, array.shape[1], HALF_TOLERANCE if array.dtype.itemsize == 2 else TOLERANCE)
        for name, array in table.signals.items()
    }
    rng = np.random.default_rng(SEED)
    for batch in table.batches():
        factors = rng.integers(0, 2**63, len(batch), np.uint64) * np.uint64(2) + np.uint64(1)
        for name, part in batch.signals.items():
            running[name].add(part, factors)
    return {name: one.finished() for name, one in running.items()}


def _distributions(part: NDArray[np.float32], tolerance: float) -> int:
    inside = (part.min(axis=1) >= -tolerance) & (part.max(axis=1) <= 1 + tolerance)
    return int((inside & (np.abs(part.sum(axis=1, dtype=np.float64) - 1) <= tolerance)).sum())


def _log_distributions(part: NDArray[np.float32], tolerance: float) -> int:
    possible = part[part.max(axis=1) <= tolerance].astype(np.float64)
    return int((np.abs(np.log(np.exp(possible).sum(axis=1).clip(1e-300))) <= tolerance).sum())
