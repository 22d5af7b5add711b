"""Class means and within-class covariances of correctly answered rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from demur.detectors.accumulate import ClassMoments, Float64, Spread
from demur.detectors.hyper import between
from demur.detectors.numpy_ops import Array
from demur.detectors.score import Batch, Reference

MOST_ENTRIES = 1 << 27  # of all classes' covariances: 1 GiB in float64


@dataclass(frozen=True, eq=False)
class ClassFit:
    """Class means (C, D), counts (C,), and the lower Cholesky factor (D, D) of the shrunk within-class covariance, all of
    correctly answered rows; or, of `ClassFit.apart`, a factor a class, (C, D, D).
    """

    means: Float64
    counts: NDArray[np.int64]
    factor: Float64

    @classmethod
    def of(cls, reference: Reference, score: str, shrinkage: float | str) -> Self:
        """One covariance shared by the classes, their residuals pooled.

        Raises: ValueError without labels, with under 2 correct rows in a class, or when the covariance is singular.
        """
        classes, moments = _means(reference, score, shrinkage)
        spread = _spreads(reference, classes, moments.means, [slice(None)]).of[0]
        factor = cholesky(spread.covariance(shrinkage), score, "the within-class covariance")
        return cls(moments.means, moments.counts, factor)

    @classmethod
    def apart(cls, reference: Reference, score: str, shrinkage: float | str) -> Self:
        """A covariance a class, each shrunk by itself.

        Raises: ValueError as `of`, and when C * D * D numbers are too many to hold.
        """
        classes, moments = _means(reference, score, shrinkage)
        size = len(classes) * moments.sums.shape[1] ** 2
        if size > MOST_ENTRIES:
            raise ValueError(
                f"{score}: a covariance a class takes {size} numbers, at most {MOST_ENTRIES} are held; use the tied one"
            )
        spreads = _spreads(reference, classes, moments.means, list(range(len(classes)))).of
        named = zip(classes.tolist(), spreads, strict=True)
        factors = [cholesky(s.covariance(shrinkage), score, f"the covariance of class {c}") for c, s in named]
        return cls(moments.means, moments.counts, np.stack(factors))


def cholesky(covariance: Float64, score: str, what: str) -> Float64:
    """The lower factor. Raises: ValueError naming `what` when it is singular."""
    try:
        return np.asarray(np.linalg.cholesky(covariance), np.float64)
    except np.linalg.LinAlgError:
        hint = "use shrinkage: ledoit_wolf, or a larger number"
        raise ValueError(f"{score}: {what} is singular; {hint}") from None


@dataclass(frozen=True, eq=False)
class _Spreads:
    of: list[Spread]

    def merge(self, other: Self) -> Self:
        return type(self)([a.merge(b) for a, b in zip(self.of, other.of, strict=True)])


def _means(reference: Reference, score: str, shrinkage: float | str) -> tuple[NDArray[np.int64], ClassMoments]:
    if not isinstance(shrinkage, str):
        between(score, "shrinkage", shrinkage, -1e-300, 1.0)
    elif shrinkage not in ("ledoit_wolf", "oas"):
        raise ValueError(f"{score}: shrinkage must be ledoit_wolf, oas or a number in [0, 1], got {shrinkage!r}")
    if reference.labels is None:
        raise ValueError(
            f"{score}: expected labels in the reference, as it is fitted class by class; add a `label` column, or take a score without, such as knn"
        )
    classes = np.unique(np.asarray(reference.labels, np.int64))
    moments = reference.reduce(lambda batch: ClassMoments.of(*correct(batch, classes), len(classes)), "features")
    few = classes[moments.counts < 2]
    if len(few):
        raise ValueError(f"{score}: classes {few.tolist()} have fewer than 2 correctly answered reference rows")
    return classes, moments


def _spreads(reference: Reference, classes: NDArray[np.int64], means: Float64, groups: list[int | slice]) -> _Spreads:
    """Spreads of the residuals of each group: one class, or all of them."""

    def part(batch: Batch) -> _Spreads:
        rows, places = correct(batch, classes)
        residuals = rows - means[places]
        return _Spreads([Spread.of(residuals[places == g if isinstance(g, int) else g]) for g in groups])

    return reference.reduce(part, "features")


def correct(batch: Batch, classes: NDArray[np.int64]) -> tuple[Float64, NDArray[np.int64]]:
    """Correctly answered rows (n, D) in float64 and the positions of their labels among the classes."""
    assert batch.labels is not None  # noqa: S101 - refused above
    rows = batch.signals["features"][batch.correct].astype(np.float64)
    return rows, np.searchsorted(classes, batch.labels[batch.correct])


def f32(x: Float64) -> Array:
    """As a graph holds it: contiguous float32."""
    return np.ascontiguousarray(x, np.float32)
