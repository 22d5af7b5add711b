"""Distances to class means under a shared covariance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from demur.detectors.accumulate import ClassMoments, Float64, Spread
from demur.detectors.hyper import between
from demur.detectors.numpy_ops import Array
from demur.detectors.score import Batch, Reference, Scaling, k_pass
from demur.detectors.tensor import Ops, Signal, Signals, T


@dataclass(frozen=True, eq=False)
class ClassFit:
    """What both distances are made of: class means (C, D), counts (C,), and the lower Cholesky factor (D, D) of the
    shrunk within-class covariance, all of correctly answered rows.
    """

    means: Float64
    counts: NDArray[np.int64]
    factor: Float64

    @classmethod
    def of(cls, reference: Reference, score: str, shrinkage: float | str) -> Self:
        """Raises: ValueError without labels, with under 2 correct rows in a class, or when the covariance is singular."""
        if not isinstance(shrinkage, str):
            between(score, "shrinkage", shrinkage, -1e-300, 1.0)
        elif shrinkage != "ledoit_wolf":
            raise ValueError(f"{score}: shrinkage must be ledoit_wolf or a number in [0, 1], got {shrinkage!r}")
        if reference.labels is None:
            raise ValueError(f"{score}: expected labels in the reference; it is fitted class by class")
        classes = np.unique(np.asarray(reference.labels, np.int64))
        moments = _first_pass(reference, classes)
        few = classes[moments.counts < 2]
        if len(few):
            raise ValueError(f"{score}: classes {few.tolist()} have fewer than 2 correctly answered reference rows")
        covariance = _second_pass(reference, classes, moments.means).covariance(shrinkage)
        try:
            return cls(moments.means, moments.counts, np.asarray(np.linalg.cholesky(covariance), np.float64))
        except np.linalg.LinAlgError:
            hint = "use shrinkage: ledoit_wolf, or a larger number"
            raise ValueError(f"{score}: the within-class covariance is singular; {hint}") from None


def _first_pass(reference: Reference, classes: NDArray[np.int64]) -> ClassMoments:
    return reference.reduce(lambda batch: ClassMoments.of(*_correct(batch, classes), len(classes)), "features")


def _second_pass(reference: Reference, classes: NDArray[np.int64], means: Float64) -> Spread:
    def part(batch: Batch) -> Spread:
        rows, places = _correct(batch, classes)
        return Spread.of(rows - means[places])

    return reference.reduce(part, "features")


def _correct(batch: Batch, classes: NDArray[np.int64]) -> tuple[Float64, NDArray[np.int64]]:
    """Correctly answered rows (n, D) in float64 and the positions of their labels among the classes."""
    assert batch.labels is not None  # noqa: S101 - refused above
    rows = batch.signals["features"][batch.correct].astype(np.float64)
    return rows, np.searchsorted(classes, batch.labels[batch.correct])


def _f32(x: Float64) -> Array:
    return np.ascontiguousarray(x, np.float32)


@dataclass(frozen=True, eq=False)
class Mahalanobis:
    """Squared Mahalanobis distance to the nearest class mean, covariance shared within classes.

    The nearest mean is found in whitened coordinates from |m|^2 - 2 z.m and the distance taken by difference,
    |z - m|^2, so that it does not cancel and never is negative.
    Shapes: features (N, D) -> (N,). Range: [0, inf), dimensionless. Higher is less trustworthy.
    Raises: ValueError in fit without labels, with under 2 correct rows in a class, or when the covariance is singular.
    Source: Lee et al. 2018, arXiv:1807.03888, eq. 2; differs: fitted on correctly answered rows, covariance shrunk by
    `shrinkage` ("ledoit_wolf", or s in (1 - s) S + s tr(S)/D I), no input perturbation.
    """

    centre: Array  # (D,), the mean of the class means
    whiten: Array  # (D, D), whiten @ whiten.T is the precision
    means: Array  # (C, D), class means centred and whitened
    means_sq: Array  # (C,)
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = k_pass(2)
    source: ClassVar[str] = "Lee et al. 2018, arXiv:1807.03888, eq. 2; covariance: Ledoit & Wolf 2004"

    @classmethod
    def fit(cls, reference: Reference, *, shrinkage: float | str = "ledoit_wolf") -> Self:
        fitted = ClassFit.of(reference, "mahalanobis", shrinkage)
        centre = fitted.means.mean(axis=0)
        whiten = np.asarray(np.linalg.inv(fitted.factor).T, np.float64)
        means = (fitted.means - centre) @ whiten
        return cls(_f32(centre), _f32(whiten), _f32(means), _f32((means * means).sum(axis=1)))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        z = (signals["features"] - self.centre) @ self.whiten
        nearest = xp.argkth_smallest(xp.linear(z, self.means, self.means_sq, scale=-2.0), 1)
        residual = z - xp.take(self.means, nearest)
        return xp.sum(residual * residual)


@dataclass(frozen=True, eq=False)
class RelativeMahalanobis:
    """Squared Mahalanobis distance to the nearest class mean, minus the one to the mean of everything.

    Both covariances are diagonal in one basis: with W'(Sw)W = I and W'(Sb)W = diag(v), the difference is
    sum v/(1+v) z^2 - 2 z.m + |m|^2. Directions with v = 0, all but C - 1, cancel exactly and are not stored; in the
    naive difference of two float32 distances they leave noise of either sign that grows with the row.
    Shapes: features (N, D) -> (N,). Range: (-inf, inf), dimensionless. Higher is less trustworthy.
    Raises: ValueError in fit as `Mahalanobis`, and with under 2 classes.
    Source: Ren et al. 2021, arXiv:2106.09022, eq. 3; differs: fitted on correctly answered rows; Sw is shrunk as in
    `Mahalanobis`, and the background covariance is Sw + Sb, Sb the covariance of the class means weighted by counts.
    """

    centre: Array  # (D,), the mean of all rows
    project: Array  # (D, R), whitened basis of the directions in which class means differ
    gain: Array  # (R,), v / (1 + v)
    means: Array  # (C, R), class means in that basis
    means_sq: Array  # (C,)
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = k_pass(2)
    source: ClassVar[str] = "Ren et al. 2021, arXiv:2106.09022, eq. 3; covariance: Ledoit & Wolf 2004"

    @classmethod
    def fit(cls, reference: Reference, *, shrinkage: float | str = "ledoit_wolf") -> Self:
        fitted = ClassFit.of(reference, "relative_mahalanobis", shrinkage)
        share = fitted.counts / fitted.counts.sum()
        centre = share @ fitted.means
        whitened = np.linalg.solve(fitted.factor, (fitted.means - centre).T)
        variance, basis = np.linalg.eigh((whitened * share) @ whitened.T)
        kept = variance > variance[-1] * len(variance) * np.finfo(np.float64).eps
        if len(share) < 2 or not kept.any() or variance[-1] <= 0:
            raise ValueError("relative_mahalanobis: expected at least 2 classes with different means")
        project = np.linalg.solve(fitted.factor.T, basis[:, kept])
        means, gain = (fitted.means - centre) @ project, variance[kept] / (1 + variance[kept])
        return cls(_f32(centre), _f32(project), _f32(gain), _f32(means), _f32((means * means).sum(axis=1)))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        z = (signals["features"] - self.centre) @ self.project
        nearest = xp.min(xp.linear(z, self.means, self.means_sq, scale=-2.0))
        return xp.sum(z * z * self.gain) + nearest  # type: ignore[no-any-return]
