"""Density of a Gaussian mixture."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from demur.detectors.hyper import between, one_of, whole
from demur.detectors.numpy_ops import Array
from demur.detectors.sample import sample_rows
from demur.detectors.score import Reference, Scaling, sample
from demur.detectors.tensor import Ops, Signal, Signals, T

SAMPLE_ROWS = 20_000


@dataclass(frozen=True, eq=False)
class GMM:
    """Negative log density of a Gaussian mixture, its covariances `full` (one a component) or `tied` (one for all).

    Evaluated in log space from whitened residuals, so far rows keep their order where densities have underflowed.
    Shapes: features (N, D) -> (N,). Range: (-inf, inf), nats. Higher is less trustworthy.
    Raises: ValueError in fit when EM does not converge, or there are fewer rows than components.
    Source: McLachlan & Peel 2000, Finite Mixture Models, eq. 3.1; EM by scikit-learn in float64 on a seeded sample;
    `ridge` is relative to the mean feature variance, so that the fit does not depend on the scale of the features.
    """

    centre: Array  # (D,)
    whiten: Array  # (D, K * D), the components' whitening matrices side by side
    offsets: Array  # (K * D,), component means centred and whitened
    log_weights: Array  # (K,), log(weight) + log|whiten| - D/2 log(2 pi)
    components: int  # K
    covariance: str = "full"
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = sample(SAMPLE_ROWS)
    source: ClassVar[str] = "McLachlan & Peel 2000, Finite Mixture Models, eq. 3.1"

    @classmethod
    def fit(
        cls,
        reference: Reference,
        *,
        components: int = 8,
        covariance: str = "full",
        ridge: float = 1e-4,
        iterations: int = 300,
        bank: int = SAMPLE_ROWS,
        seed: int = 0,
    ) -> Self:
        from sklearn.mixture import GaussianMixture

        whole("gmm", "components", components)
        one_of("gmm", "covariance", covariance, ("full", "tied"))
        between("gmm", "ridge", ridge, 0.0, 1.0)
        rows = sample_rows(reference, "features", whole("gmm", "bank", bank), whole("gmm", "seed", seed, least=0))
        if len(rows) < max(2, components):
            raise ValueError(f"gmm: {components} components need at least {max(2, components)} rows, got {len(rows)}")
        centre = rows.mean(axis=0).astype(np.float32)
        rows = rows - centre
        scale = float(np.sqrt(rows.var(axis=0).mean()))
        if scale == 0:
            raise ValueError("gmm: the reference features are constant")
        start = GaussianMixture(
            components,
            covariance_type=covariance,
            reg_covar=ridge,
            max_iter=whole("gmm", "iterations", iterations),
            random_state=seed,
        )
        return cls(centre, *_parameters(_em(start, rows / scale), scale), components, covariance)

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        z = (signals["features"] - self.centre) @ self.whiten - self.offsets
        squares = xp.sum_parts(z * z, self.components)
        return -xp.logsumexp(self.log_weights - 0.5 * squares)  # type: ignore[no-any-return]


def _em(mixture: Any, rows: NDArray[np.float64]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # non-convergence is an error here, raised below
        mixture.fit(rows)
    if not mixture.converged_:
        limit = mixture.max_iter
        raise ValueError(f"gmm: no convergence in {limit} iterations; use fewer components or more iterations")
    return mixture


def _parameters(mixture: Any, scale: float) -> tuple[Array, Array, Array]:
    count, size = mixture.means_.shape
    factors = np.broadcast_to(mixture.precisions_cholesky_ / scale, (count, size, size))
    log_weights = np.log(mixture.weights_) + np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
    offsets = np.einsum("kd,kde->ke", mixture.means_ * scale, factors)
    whiten = factors.transpose(1, 0, 2).reshape(size, count * size)
    log_weights = log_weights - size / 2 * np.log(2 * np.pi)
    return (
        np.ascontiguousarray(whiten, np.float32),
        offsets.ravel().astype(np.float32),
        log_weights.astype(np.float32),
    )
