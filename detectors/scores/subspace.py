"""What features hold outside a principal subspace, or outside what the last layer reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from demur.detectors.accumulate import Float64
from demur.detectors.numpy_ops import Array
from demur.detectors.score import Reference, Scaling, k_pass
from demur.detectors.scores.class_fit import f32
from demur.detectors.scores.seen import feature_mean, means_by_label
from demur.detectors.scores.vim import principal_dim, second_moment
from demur.detectors.tensor import Ops, Signal, Signals, T


@dataclass(frozen=True, eq=False)
class Residual:
    """Norm of the feature residual outside the principal space: ViM's first term alone, unscaled.

    |(h - u) N|: u = -pinv(W) b, N the eigenvectors of E[(h - u)(h - u)'] after the first `dim`. It is computed as
    |(h - mu) N + (mu - u) N|, mu the mean feature, so that a large common offset does not cost its digits.
    Shapes: features (N, D) -> (N,). Range: [0, inf), units of the features. Higher is less trustworthy.
    Raises: ValueError in fit without a head, or when `dim` is not below the rank of the reference features about u.
    Without `dim`, ViM's rule is applied to that rank R: 1000 for R >= 2048, 512 for R >= 768, else R // 2.
    Source: Wang et al. 2022, arXiv:2203.10807, eq. 4.
    """

    mean: Array  # (D,)
    residual: Array  # (D, D - dim), orthonormal columns
    shift: Array  # (D - dim,), (mean - u) @ residual
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = k_pass(2)
    source: ClassVar[str] = "Wang et al. 2022, arXiv:2203.10807, eq. 4"

    @classmethod
    def fit(cls, reference: Reference, *, dim: int | None = None) -> Self:
        weight, bias = reference.head("residual")
        origin = -np.linalg.pinv(weight) @ bias
        values, vectors = np.linalg.eigh(second_moment(reference, origin))
        residual = vectors[:, : len(values) - principal_dim("residual", values, dim)]
        mean = f32(feature_mean(reference))
        return cls(mean, f32(residual), f32((mean - origin) @ residual))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        return xp.norm((signals["features"] - self.mean) @ self.residual + self.shift)


@dataclass(frozen=True, eq=False)
class CORE:
    """One minus the largest cosine between what the last layer does not see of a feature and any class's mean of it.

    r is h - mu projected on the orthogonal complement of the rows of W, mu the mean of all reference features; m_c is the
    mean of r over the correctly answered rows with label c; labels without such a row are left out. The score is 1 - max_c cos(r, m_c), as half the squared
    difference of the unit vectors. A feature without such a part (r = 0) has no direction: its score is 1.
    Shapes: features (N, D) -> (N,). Range: [0, 2], dimensionless. Higher is less trustworthy.
    Raises: ValueError in fit without labels or a head, when the rows of W span all features, or when an m_c is
    zero.
    Source: ours, after the idea of CORE, arXiv:2603.18290, "residual" part; it is not the paper's published form, which adds
    an energy and normalises both.
    """

    mean: Array  # (D,)
    unseen: Array  # (D, D - rank W), orthonormal columns
    directions: Array  # (C, D - rank W), unit vectors along m_c
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = k_pass(2)
    source: ClassVar[str] = "after CORE, arXiv:2603.18290; not the paper's form"

    @classmethod
    def fit(cls, reference: Reference) -> Self:
        weight, _ = reference.head("core")
        classes, means = means_by_label(reference, "core")
        mean, unseen = feature_mean(reference), complement(weight)
        parts = (means - mean) @ unseen
        lengths = np.linalg.norm(parts, axis=1)
        blank = classes[lengths <= 1e-9 * np.linalg.norm(means - mean, axis=1)]
        if len(blank):
            raise ValueError(
                f"core: the means of classes {blank.tolist()} have no part that the last layer does not see"
            )
        return cls(f32(mean), f32(unseen), f32(parts / lengths[:, None]))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        residual = (signals["features"] - self.mean) @ self.unseen
        here = xp.unit(residual)
        nearest = xp.argmax(xp.linear(here, self.directions))
        apart = here - xp.take(self.directions, nearest)
        has_direction = xp.greater(xp.max(xp.abs(residual)), 0.0)
        return xp.where(has_direction, 0.5 * xp.sum(apart * apart), 1.0)


def complement(weight: Float64) -> Float64:
    """Orthonormal columns (D, D - R) that the rows of a head (C, D) of rank R do not reach.

    Raises: ValueError when they reach everything.
    """
    _, values, rows = np.linalg.svd(weight)
    rank = int(np.sum(values > values[0] * max(weight.shape) * np.finfo(np.float32).eps))
    if rank >= weight.shape[1]:
        raise ValueError(f"core: the last layer sees all {rank} features; expected more features than classes")
    return np.asarray(rows[rank:].T, np.float64)
