"""Distance from the principal subspace of a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from demur.detectors.accumulate import Float64, Moments
from demur.detectors.hyper import one_of, whole
from demur.detectors.numpy_ops import Array
from demur.detectors.score import EXACT_MERGE, Reference, Scaling
from demur.detectors.scores.class_fit import f32
from demur.detectors.tensor import Ops, Signal, Signals, T


@dataclass(frozen=True, eq=False)
class PCA:
    """How far a row lies from the mean along all principal components but the `dim` largest.

    With eigenvectors v_j and values l_j of the reference's covariance (divided by n), components in falling order of l_j:
    by "mahalanobis": sum of (v_j.(h - mean))^2 / l_j over components j > dim with l_j above the rank's tolerance, D eps l_1
    (`dim` 0 by default: all of them); directions in which the reference does not vary are left out.
    by "reconstruction": the norm of the row's part outside the `dim` largest components (half of the rank by default),
    those directions included.
    Put `standardise` before it where columns have different units.
    Shapes: features (N, D) -> (N,). Range: [0, inf); squared standard deviations, or units of the features. Higher is
    less trustworthy.
    Raises: ValueError in fit when the features are constant, or `dim` is not below the rank.
    Source: Shyu et al. 2003, "A novel anomaly detection scheme based on principal component classifier", eq. 5;
    reconstruction: Jackson & Mudholkar 1979. PyOD's distance to an eigenvector as a point depends on its sign: not used.
    """

    centre: Array  # (D,)
    project: Array  # (D, R), components, over their standard deviation by mahalanobis
    by: str
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Shyu et al. 2003, principal component classifier, eq. 5"

    @classmethod
    def fit(cls, reference: Reference, *, dim: int | None = None, by: str = "mahalanobis") -> Self:
        one_of("pca", "by", by, ("mahalanobis", "reconstruction"))
        moments = reference.reduce(lambda batch: Moments.of(batch.signals["features"].astype(np.float64)), "features")
        values, vectors = np.linalg.eigh(moments.scatter / moments.count)
        values, vectors = values[::-1], vectors[:, ::-1]
        rank = int(np.sum(values > values[0] * len(values) * np.finfo(np.float64).eps)) if values[0] > 0 else 0
        dropped = _dropped(dim, by, rank)
        if by == "mahalanobis":
            project: Float64 = vectors[:, dropped:rank] / np.sqrt(values[dropped:rank])
        else:
            project = vectors[:, dropped:]
        return cls(f32(moments.mean), f32(project), by)

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        z = (signals["features"] - self.centre) @ self.project
        return xp.sum(z * z) if self.by == "mahalanobis" else xp.norm(z)


def _dropped(dim: int | None, by: str, rank: int) -> int:
    if rank == 0:
        raise ValueError("pca: the reference features are constant")
    if dim is None:
        return 0 if by == "mahalanobis" else rank // 2
    if whole("pca", "dim", dim, least=0) >= rank:
        raise ValueError(f"pca: dim must be below the rank of the reference features, {rank}; got {dim}")
    return dim
