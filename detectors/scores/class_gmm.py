"""Density of one normal component a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from demur.detectors.numpy_ops import Array
from demur.detectors.score import Reference, Scaling, k_pass
from demur.detectors.scores.class_fit import ClassFit, f32
from demur.detectors.tensor import Ops, Signal, Signals, T


@dataclass(frozen=True, eq=False)
class ClassGMM:
    """Negative log density of a Gaussian mixture with one component a class: -log sum_c pi_c N(h; mu_c, S).

    All of correctly answered rows: pi_c the share and mu_c the mean of those with label c, S the shrunk within-class
    covariance of `Mahalanobis`. The labels say which component a row is of, so there is no EM. The density is taken
    relative to the nearest component, whose distance is found by difference: it neither cancels nor underflows.
    Shapes: features (N, D) -> (N,). Range: (-inf, inf), nats. Higher is less trustworthy.
    Raises: ValueError in fit as `Mahalanobis`.
    Source: McLachlan & Peel 2000, Finite Mixture Models, eq. 3.1; the wafer-map monitor's form (components are the classes),
    with one covariance, shrunk by `shrinkage`, where the paper chooses components by BIC.
    """

    centre: Array  # (D,), the mean of the class means
    whiten: Array  # (D, D), whiten @ whiten.T is the precision
    means: Array  # (C, D), class means centred and whitened
    means_sq: Array  # (C,)
    log_weights: Array  # (C,), log(pi) + log|whiten| - D/2 log(2 pi)
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = k_pass(2)
    source: ClassVar[str] = "McLachlan & Peel 2000, Finite Mixture Models, eq. 3.1"

    @classmethod
    def fit(cls, reference: Reference, *, shrinkage: float | str = "ledoit_wolf") -> Self:
        fitted = ClassFit.of(reference, "class_gmm", shrinkage)
        centre = fitted.means.mean(axis=0)
        whiten = np.asarray(np.linalg.inv(fitted.factor).T, np.float64)
        means = (fitted.means - centre) @ whiten
        log_det = -float(np.log(np.diagonal(fitted.factor)).sum())
        log_weights = np.log(fitted.counts / fitted.counts.sum()) + log_det - len(centre) / 2 * np.log(2 * np.pi)
        return cls(f32(centre), f32(whiten), f32(means), f32((means * means).sum(axis=1)), f32(log_weights))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        z = (signals["features"] - self.centre) @ self.whiten
        order = xp.linear(z, self.means, self.means_sq, scale=-2.0)  # squared distances less |z|^2
        residual = z - xp.take(self.means, xp.argkth_smallest(order, 1))
        further = order - xp.min(order, keepdims=True)
        return 0.5 * xp.sum(residual * residual) - xp.logsumexp(self.log_weights - 0.5 * further)  # type: ignore[no-any-return]
