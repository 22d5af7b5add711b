"""Boxes around what each class looks like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from demur.detectors.accumulate import Float64
from demur.detectors.hyper import between, whole
from demur.detectors.numpy_ops import Array
from demur.detectors.sample import Rows, sample_of
from demur.detectors.score import Batch, Reference, Scaling, sample
from demur.detectors.scores.class_fit import f32
from demur.detectors.scores.seen import class_count
from demur.detectors.tensor import Ops, Signal, Signals, T

SAMPLE_ROWS = 20_000
NO_ROWS = 1e30  # the least score of a row predicted as a class that the reference never saw right


@dataclass(frozen=True, eq=False)
class Box:
    """How far outside the nearest box of its predicted class a row is, in half widths of the box: at most 1 is inside.

    min over the boxes of class c^ of max_d |h_d - c_d| / (w_d / 2 + 1e-20), c^ the predicted class (the first among
    equals), c and w a box's centre and widths. The boxes of a class are the ranges of its clusters: k-means in float64
    (scikit-learn, n_init 1, random_state `seed`, rows less their mean) with min(`boxes`, distinct rows) clusters on its
    correctly answered rows in a seeded sample of `bank` rows; then every correctly answered row of the reference with
    that label widens the box of its nearest cluster mean. `margin` m then makes every half width (1 + m) times as large.
    A class without such rows in the sample scores 1e30 or more.
    Shapes: features (N, D), logits (N, C) -> (N,). Range: [0, inf), half widths. Higher is less trustworthy.
    Raises: ValueError in fit without labels, with labels outside 0..C-1, or when no row is answered correctly.
    Source: Henzinger et al. 2020, arXiv:1911.09032 (Outside the Box), boxes of clusters; graded as in Guerin et al. 2023.
    """

    low: Array  # (C, B * D), the boxes side by side; a class with fewer boxes repeats its first
    high: Array  # (C, B * D)
    least: Array  # (C,), 0, or 1e30 of a class without rows
    boxes: int  # B
    margin: float
    inputs: ClassVar[tuple[Signal, ...]] = ("features", "logits")
    scales: ClassVar[Scaling] = sample(SAMPLE_ROWS)
    source: ClassVar[str] = "Henzinger et al. 2020, arXiv:1911.09032"

    @classmethod
    def fit(
        cls, reference: Reference, *, boxes: int = 10, margin: float = 0.0, bank: int = SAMPLE_ROWS, seed: int = 0
    ) -> Self:
        whole("box", "boxes", boxes)
        between("box", "margin", margin, -1e-300, 1e6)
        classes = class_count(reference, "box")
        size, start = whole("box", "bank", bank), whole("box", "seed", seed, least=0)
        means = _cluster_means(sample_of(reference, "features", size=size, seed=start), classes, boxes, start)
        seen = np.array([len(m) > 0 for m in means])
        if not seen.any():
            raise ValueError("box: expected correctly answered reference rows, got none")
        ranges = reference.reduce(lambda batch: _Ranges.of(batch, means, boxes), "features")
        low, high = _filled(ranges.low, -1.0), _filled(ranges.high, 1.0)
        grown = margin * (high - low) / 2
        least = np.where(seen, 0.0, NO_ROWS)
        return cls(_table(low - grown), _table(high + grown), f32(least), boxes, float(margin))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        predicted = xp.argmax(signals["logits"])
        low, high = (xp.fold(xp.take(x, predicted), self.boxes) for x in (self.low, self.high))
        x = xp.one_part(signals["features"])
        half = 0.5 * high - 0.5 * low
        off = xp.maximum(x - high, low - x) + half  # |x - centre|; exact beside the walls, where the answer is 1
        depth = xp.min(xp.max(off / (half + 1e-20)))
        return xp.maximum(depth, xp.take(self.least, predicted))


@dataclass(frozen=True, eq=False)
class _Ranges:
    """Lowest and highest values (C, B, D) of the rows of each cluster."""

    low: Float64
    high: Float64

    @classmethod
    def of(cls, batch: Batch, means: list[Float64], boxes: int) -> Self:
        rows = batch.signals["features"].astype(np.float64)
        shape = (len(means), boxes, rows.shape[1])
        found = cls(np.full(shape, np.inf), np.full(shape, -np.inf))
        for c, place in enumerate(means):
            mine = rows[batch.correct & (batch.labels == c)]
            if len(mine) and len(place):
                nearest = _nearest(mine, place)
                np.minimum.at(found.low[c], nearest, mine)
                np.maximum.at(found.high[c], nearest, mine)
        return found

    def merge(self, other: Self) -> Self:
        return type(self)(np.minimum(self.low, other.low), np.maximum(self.high, other.high))


def _cluster_means(rows: Rows, classes: int, boxes: int, seed: int) -> list[Float64]:
    """Means (K, D) of the clusters of each class, (0, D) where it has no correctly answered rows."""
    from sklearn.cluster import KMeans

    found = []
    for c in range(classes):
        mine = rows.signals["features"][rows.correct & (rows.labels == c)]
        count = min(boxes, len(np.unique(mine, axis=0)))
        if count:
            centre = mine.mean(axis=0)
            fitted = KMeans(count, n_init=1, random_state=seed).fit(mine - centre)
            found.append(fitted.cluster_centers_ + centre)
        else:
            found.append(mine[:0])
    return found


def _nearest(rows: Float64, places: Float64) -> NDArray[np.int64]:
    from scipy.spatial.distance import cdist

    return np.asarray(cdist(rows, places).argmin(axis=1), np.int64)


def _filled(bounds: Float64, blank: float) -> Float64:
    """Boxes without rows repeat the first of their class that has some; a class without any is `blank`."""
    filled = np.copy(bounds)
    for c in range(len(bounds)):
        empty = np.isinf(bounds[c, :, 0])
        filled[c, empty] = blank if empty.all() else bounds[c, int(np.argmin(empty))]
    return filled


def _table(bounds: Float64) -> Array:
    return f32(bounds.reshape(len(bounds), -1))
