"""Distance to stored neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from demur.detectors.hyper import one_of, whole
from demur.detectors.numpy_ops import Array
from demur.detectors.score import Reference, Scaling, sample
from demur.detectors.scores.bank import BANK_ROWS, closeness, has_direction, kept_rows, stored
from demur.detectors.tensor import Ops, Signal, Signals, T


@dataclass(frozen=True, eq=False)
class KNN:
    """Distance from the features to their k-th nearest neighbour in the bank, or the mean over the k nearest.

    metric "cosine": 1 - cos, half the squared difference of the unit vectors; the zero vector has no direction: its
    distance is 1. "euclidean": |h - b|. aggregate "kth" or "mean" (of the distances). Neighbours are ranked in
    coordinates centred on the bank and distances taken by differences: 1 - u.b itself, and sqrt(2 - 2 u.b), lose all
    digits on features with a common offset. `select`: which rows the bank keeps (`bank.kept_rows`); `dtype`: rows are
    stored as float32, float16 or int8 (multiples of max|column| / 127 of the centred rows), distances are to the rounded
    rows; docs/banks.md has what that costs.
    Shapes: features (N, D) -> (N,). Range: [0, 2], dimensionless, or [0, inf) in units of the features. Higher is less
    trustworthy.
    Raises: ValueError in fit when fewer than k rows remain (with a direction, under cosine), a row is not finite or does
    not fit the type, or labels are missing for `class_balanced`.
    Source: Sun et al. 2022, arXiv:2204.06507, eq. 3; differs: half the square of the paper's distance (same order), a
    bank of `bank` rows. Euclidean, kth and mean: Ramaswamy et al. 2000; Angiulli & Pizzuti 2002 (PyOD's largest, mean).
    """

    centre: Array  # (D,), the mean of the unit vectors, or rows, in the bank
    bank: NDArray[Any]  # (M, D), unit vectors, or rows, minus the centre
    bank_sq: Array  # (M,)
    k: int
    step: Array | None = None  # (D,), of int8
    metric: str = "cosine"
    aggregate: str = "kth"
    dtype: str = "float32"
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = sample(BANK_ROWS)
    source: ClassVar[str] = "Sun et al. 2022, arXiv:2204.06507, eq. 3"

    @classmethod
    def fit(
        cls,
        reference: Reference,
        *,
        k: int = 50,
        bank: int = BANK_ROWS,
        metric: str = "cosine",
        aggregate: str = "kth",
        select: str = "random",
        dtype: str = "float32",
        seed: int = 0,
    ) -> Self:
        one_of("knn", "metric", metric, ("cosine", "euclidean"))
        one_of("knn", "aggregate", aggregate, ("kth", "mean"))
        least, unit = whole("knn", "k", k), metric == "cosine"
        kept = kept_rows(
            reference, "knn", "features", size=bank, seed=seed, select=select, unit=unit, least=least
        ).signals["features"]
        centre = kept.mean(axis=0).astype(np.float32)
        rows, step, squares = stored("knn", kept - centre, dtype)
        return cls(centre, rows, squares, k, step, metric, aggregate, dtype)

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        x = signals["features"]
        here = (xp.unit(x) if self.metric == "cosine" else x) - self.centre
        ranked = closeness(xp, here, self.bank, self.bank_sq, self.step, self.dtype)
        if self.aggregate == "kth":
            found = self._apart(xp, here, xp.argkth_smallest(ranked, self.k))
        else:
            found = xp.mean(self._apart(xp, xp.one_part(here), xp.bottom(ranked, self.k)[1]))
        return found if self.metric == "euclidean" else xp.where(has_direction(xp, x), found, 1.0)

    def _apart(self, xp: Ops[T], here: T, places: T) -> T:
        """Distances to the rows at the places: (N,) -> (N,), (N, k) -> (N, k)."""
        rows: Any = xp.take(self.bank, places)
        rows = rows if self.dtype == "float32" else xp.wide(rows)
        apart = here - (rows if self.step is None else rows * self.step)
        return xp.norm(apart) if self.metric == "euclidean" else 0.5 * xp.sum(apart * apart)
