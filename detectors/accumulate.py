"""Mergeable accumulators: what a fit keeps while the rows go by, in float64 and bounded memory.

Merging in any order gives the same result up to the rounding of float64 additions: counts exactly, sums to about
1e-15 relative a merge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from demur.detectors.score import Batch, Reference
from demur.detectors.tensor import Signal

Float64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moments:
    """count, mean (D,), scatter (D, D) about the mean, quartic = sum of |x - about|^4 when taken about a fixed point."""

    count: int
    mean: Float64
    scatter: Float64

    @classmethod
    def of(cls, rows: Float64) -> Self:
        """Moments of rows (n, D)."""
        mean = rows.mean(axis=0) if len(rows) else np.zeros(rows.shape[1])
        centred = rows - mean
        return cls(len(rows), mean, centred.T @ centred)

    def merge(self, other: Self) -> Self:
        """Source: Chan, Golub & LeVeque 1983, eq. 2.1."""
        count = self.count + other.count
        if not count:
            return self
        step = other.mean - self.mean
        weight = self.count * other.count / count
        scatter = self.scatter + other.scatter + weight * np.outer(step, step)
        return type(self)(count, self.mean + step * (other.count / count), scatter)


@dataclass(frozen=True, eq=False)
class ClassMoments:
    """Per-class counts (C,) and sums (C, D) of the rows of each class: the first pass of a class-conditional fit."""

    counts: NDArray[np.int64]
    sums: Float64

    @classmethod
    def of(cls, rows: Float64, places: NDArray[np.int64], classes: int) -> Self:
        """Rows (n, D) with their class positions (n,) in 0..classes-1."""
        sums = np.zeros((classes, rows.shape[1]))
        np.add.at(sums, places, rows)
        return cls(np.bincount(places, minlength=classes), sums)

    def merge(self, other: Self) -> Self:
        return type(self)(self.counts + other.counts, self.sums + other.sums)

    @property
    def means(self) -> Float64:
        return self.sums / self.counts[:, None]


@dataclass(frozen=True, eq=False)
class Spread:
    """Second pass: count, scatter (D, D) and sum of |r|^4 of residuals r, all that Ledoit and Wolf's shrinkage needs."""

    count: int
    scatter: Float64
    quartic: float

    @classmethod
    def of(cls, residuals: Float64) -> Self:
        squares = np.einsum("nd,nd->n", residuals, residuals)
        return cls(len(residuals), residuals.T @ residuals, float(squares @ squares))

    def merge(self, other: Self) -> Self:
        return type(self)(self.count + other.count, self.scatter + other.scatter, self.quartic + other.quartic)

    def covariance(self, shrinkage: float | str) -> Float64:
        """(1 - s) S + s tr(S)/D I with S = scatter / count; s as given, or estimated: "ledoit_wolf" or "oas"."""
        sample = self.scatter / self.count
        size = len(sample)
        level = np.trace(sample) / size
        estimates = {"ledoit_wolf": self.ledoit_wolf, "oas": self.oas}
        share = estimates[shrinkage]() if isinstance(shrinkage, str) else shrinkage
        return np.asarray((1 - share) * sample + share * level * np.eye(size))

    def ledoit_wolf(self) -> float:
        """The shrinkage in [0, 1] that minimises the expected squared error of the covariance.

        Source: Ledoit & Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices", lemma 3.
        """
        sample = self.scatter / self.count
        size, norm = len(sample), float(np.sum(sample * sample))
        spread = norm / size - (np.trace(sample) / size) ** 2
        noise = (self.quartic / self.count - norm) / (size * self.count)
        return float(min(noise, spread) / spread) if spread > 0 else 0.0

    def oas(self) -> float:
        """The oracle-approximating shrinkage in [0, 1] for normal rows.

        Source: Chen et al. 2010, arXiv:0907.4698, eq. 23, without its terms of order 2 / D, as scikit-learn.
        """
        sample = self.scatter / self.count
        size = len(sample)
        mean_square, level = float(np.mean(sample * sample)), float(np.trace(sample) / size) ** 2
        spread = (self.count + 1) * (mean_square - level / size)
        return min((mean_square + level) / spread, 1.0) if spread > 0 else 1.0


@dataclass(frozen=True, eq=False)
class Counts:
    """Counts that add up."""

    of: NDArray[np.int64]

    def merge(self, other: Self) -> Self:
        return type(self)(self.of + other.of)


@dataclass(frozen=True, eq=False)
class Sums:
    """Float64 sums by name, with how many rows they are over."""

    rows: int
    of: dict[str, Float64]

    def merge(self, other: Self) -> Self:
        return type(self)(self.rows + other.rows, {name: total + other.of[name] for name, total in self.of.items()})

    def mean(self, name: str) -> Float64:
        return self.of[name] / self.rows


def order_statistic(reference: Reference, signal: Signal, quantile: float) -> np.float32:
    """The ceil(q n)-th smallest of all n values of a signal, exactly, in two passes and 512 KiB.

    The first pass counts the upper 16 bits of the values' order-preserving keys, the second the lower 16 bits of those
    that share the upper half of the answer.
    """
    upper = reference.reduce(
        lambda batch: Counts(np.bincount((ordered_keys(batch.signals[signal]) >> 16).ravel(), minlength=1 << 16)),
        signal,
    ).of
    rank = max(1, int(np.ceil(quantile * upper.sum())))
    before = np.cumsum(upper)
    half = int(np.searchsorted(before, rank))

    def lower_half(batch: Batch) -> Counts:
        keys = ordered_keys(batch.signals[signal])
        return Counts(np.bincount(keys[keys >> 16 == half] & 0xFFFF, minlength=1 << 16))

    lower = reference.reduce(lower_half, signal).of
    rest = rank - (int(before[half - 1]) if half else 0)
    key = half << 16 | int(np.searchsorted(np.cumsum(lower), rest))
    bits = key ^ 0x80000000 if key & 0x80000000 else key ^ 0xFFFFFFFF
    return np.float32(np.array([bits], np.uint32).view(np.float32)[0])


def ordered_keys(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """32-bit integers in the order of the floats."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.int64)
    return np.where(bits & 0x80000000, bits ^ 0xFFFFFFFF, bits ^ 0x80000000)
