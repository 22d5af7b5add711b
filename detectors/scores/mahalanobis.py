"""Distances to class means under a shared covariance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from demur.detectors.hyper import one_of
from demur.detectors.numpy_ops import Array
from demur.detectors.score import Reference, Scaling, k_pass
from demur.detectors.scores.class_fit import ClassFit, f32
from demur.detectors.tensor import Ops, Signal, Signals, T


@dataclass(frozen=True, eq=False)
class Mahalanobis:
    """Squared Mahalanobis distance to the nearest class mean, the covariance shared within classes or one a class.

    covariance "tied": the nearest mean is found in whitened coordinates from |m|^2 - 2 z.m and the distance taken by
    difference, |z - m|^2, so that it does not cancel and never is negative. "class": min_c (h - m_c)' S_c^-1 (h - m_c),
    S_c of the correctly answered rows of class c alone, each shrunk by itself; state C D^2.
    Shapes: features (N, D) -> (N,). Range: [0, inf), dimensionless. Higher is less trustworthy.
    Raises: ValueError in fit without labels, with under 2 correct rows in a class, when a covariance is singular, or when
    a covariance a class takes more than 2^27 numbers.
    Source: Lee et al. 2018, arXiv:1807.03888, eq. 2; differs: fitted on correctly answered rows, covariance shrunk by
    `shrinkage` ("ledoit_wolf", "oas", or s in (1 - s) S + s tr(S)/D I), no input perturbation.
    """

    centre: Array  # (D,), the mean of the class means
    whiten: Array  # (D, D), whiten @ whiten.T is the precision; of covariance "class" (D, C * D), side by side
    means: Array  # (C, D), class means centred and whitened
    means_sq: Array | None  # (C,); None of covariance "class"
    covariance: str = "tied"
    classes: int = 0  # C, of covariance "class"
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = k_pass(2)
    source: ClassVar[str] = "Lee et al. 2018, arXiv:1807.03888, eq. 2; covariance: Ledoit & Wolf 2004"

    @classmethod
    def fit(cls, reference: Reference, *, shrinkage: float | str = "ledoit_wolf", covariance: str = "tied") -> Self:
        one_of("mahalanobis", "covariance", covariance, ("tied", "class"))
        if covariance == "class":
            return cls._apart(ClassFit.apart(reference, "mahalanobis", shrinkage))
        fitted = ClassFit.of(reference, "mahalanobis", shrinkage)
        centre = fitted.means.mean(axis=0)
        whiten = np.asarray(np.linalg.inv(fitted.factor).T, np.float64)
        means = (fitted.means - centre) @ whiten
        return cls(f32(centre), f32(whiten), f32(means), f32((means * means).sum(axis=1)))

    @classmethod
    def _apart(cls, fitted: ClassFit) -> Self:
        centre = fitted.means.mean(axis=0)
        whiten = np.linalg.inv(fitted.factor).transpose(0, 2, 1)
        means = np.einsum("cd,cde->ce", fitted.means - centre, whiten)
        side_by_side = np.concatenate(list(whiten), axis=1)
        return cls(f32(centre), f32(side_by_side), f32(means), None, "class", len(means))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        z = (signals["features"] - self.centre) @ self.whiten
        if self.means_sq is None:
            apart = xp.fold(z, self.classes) - self.means
            return xp.min(xp.sum(apart * apart))
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
        return cls(f32(centre), f32(project), f32(gain), f32(means), f32((means * means).sum(axis=1)))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        z = (signals["features"] - self.centre) @ self.project
        nearest = xp.min(xp.linear(z, self.means, self.means_sq, scale=-2.0))
        return xp.sum(z * z * self.gain) + nearest  # type: ignore[no-any-return]
