"""Histograms of each column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from demur.detectors.accumulate import Counts, Float64
from demur.detectors.hyper import whole
from demur.detectors.numpy_ops import Array, NumpyOps
from demur.detectors.score import Batch, Reference, Scaling, k_pass
from demur.detectors.scores.class_fit import f32
from demur.detectors.tensor import Ops, Signal, Signals, T

FLOOR = 0.1  # added to every height: what an empty bin counts as


@dataclass(frozen=True, eq=False)
class HBOS:
    """Sum over columns of -log2(height + 0.1), height = bins * share of reference rows in the value's bin.

    Each column's range over the reference is cut into `bins` equal bins [lo, hi), edges in float32; the first and the last
    reach half a bin further out, and the last holds the largest value itself. Values further out have height 0. In a
    constant column only its value has a height, `bins`.
    Shapes: features (N, D) -> (N,). Range: [-D log2(bins + 0.1), D log2(10)], bits. Higher is less trustworthy.
    Raises: ValueError in fit when the reference is not finite.
    Source: Goldstein & Dengel 2012, "Histogram-based outlier score", eq. 1; the constants are PyOD 3.6's, of which this
    is the score on columns scaled to [0, 1]; differs: bins are the same in fit and score (PyOD counts [lo, hi) and scores
    (lo, hi]), far values count as an empty bin (PyOD: as the emptiest), units of a column do not matter.
    """

    edges: Array  # (D, bins + 1), with the outer ones half a bin out
    bits: Array  # (D * (bins + 2),), of each bin and of both outsides, column by column
    starts: Array  # (D,), the first of each column
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = k_pass(2)
    source: ClassVar[str] = "Goldstein & Dengel 2012, Histogram-based outlier score, eq. 1"

    @classmethod
    def fit(cls, reference: Reference, *, bins: int = 10) -> Self:
        whole("hbos", "bins", bins)
        edges = _edges(reference.reduce(Extent.of, "features"), bins)
        size = len(edges)

        def part(batch: Batch) -> Counts:
            places = NumpyOps().rank(batch.signals["features"], edges, equal=True).astype(np.int64)
            flat = places + np.arange(size) * (bins + 2)
            return Counts(np.bincount(flat.ravel(), minlength=size * (bins + 2)))

        heights = bins * reference.reduce(part, "features").of / reference.rows
        starts = np.arange(size, dtype=np.float64) * (bins + 2)
        return cls(edges, f32(-np.log2(heights + FLOOR)), f32(starts))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        places = xp.rank(signals["features"], self.edges, equal=True) + self.starts
        return xp.sum(xp.take(self.bits, xp.index(places)))


@dataclass(frozen=True, eq=False)
class Extent:
    """Smallest and largest value of each column, (D,) each."""

    low: Float64
    high: Float64

    @classmethod
    def of(cls, batch: Batch) -> Self:
        """Of one batch. Raises: ValueError for a row that is not finite."""
        rows = batch.signals["features"].astype(np.float64)
        if not np.isfinite(rows).all():
            raise ValueError(
                f"hbos: expected finite features, got others among rows from {batch.start}; drop them first"
            )
        return cls(rows.min(axis=0), rows.max(axis=0))

    def merge(self, other: Self) -> Self:
        return type(self)(np.minimum(self.low, other.low), np.maximum(self.high, other.high))


def _edges(extent: Extent, bins: int) -> Array:
    width = (extent.high - extent.low) / bins
    steps = np.arange(bins + 1, dtype=np.float64)
    steps[0], steps[-1] = -0.5, bins + 0.5
    edges = np.clip(extent.low[:, None] + width[:, None] * steps, -np.finfo(np.float32).max, np.finfo(np.float32).max)
    rounded = edges.astype(np.float32)
    above = np.nextafter(extent.high.astype(np.float32), np.float32(np.inf))
    rounded[:, -1] = np.maximum(rounded[:, -1], above)  # the largest value is inside, however narrow the column
    return np.ascontiguousarray(rounded)
