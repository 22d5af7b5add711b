"""Virtual-logit matching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from demur.detectors.accumulate import Float64, Sums
from demur.detectors.hyper import whole
from demur.detectors.numpy_ops import Array
from demur.detectors.score import Batch, Reference, Scaling, k_pass
from demur.detectors.tensor import Ops, Signal, Signals, T


@dataclass(frozen=True, eq=False)
class ViM:
    """Scaled norm of the feature residual outside the principal space, minus log-sum-exp of the logits.

    Shapes: features (N, D), logits (N, C) -> (N,). Range: (-inf, inf), nats. Higher is less trustworthy.
    Raises: ValueError in fit without a head, or when `dim` is not below the rank of the reference features: the
    residual would be rounding noise. Without `dim`, the paper's rule is applied to that rank R: 1000 for R >= 2048, 512
    for R >= 768, else R / 2.
    Source: Wang et al. 2022, arXiv:2203.10807, eq. 8.
    """

    origin: Array  # (D,), -pinv(W) b
    residual: Array  # (D, D - dim), orthonormal columns
    alpha: Array  # (1,), mean largest logit / mean residual norm
    inputs: ClassVar[tuple[Signal, ...]] = ("features", "logits")
    scales: ClassVar[Scaling] = k_pass(2)
    source: ClassVar[str] = "Wang et al. 2022, arXiv:2203.10807, eq. 8"

    @classmethod
    def fit(cls, reference: Reference, *, dim: int | None = None) -> Self:
        weight, bias = reference.head("vim")
        origin = -np.linalg.pinv(weight) @ bias
        values, vectors = np.linalg.eigh(second_moment(reference, origin))
        residual = vectors[:, : len(values) - principal_dim("vim", values, dim)]
        return cls(
            origin.astype(np.float32),
            np.ascontiguousarray(residual, np.float32),
            np.array([_matching_scale(reference, origin, residual)], np.float32),
        )

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        virtual = self.alpha * xp.norm((signals["features"] - self.origin) @ self.residual)
        return virtual - xp.logsumexp(signals["logits"])  # type: ignore[no-any-return]


def principal_dim(score: str, values: Float64, dim: int | None) -> int:
    """How many of the ascending eigenvalues (D,) are principal: `dim`, or by the paper's rule for their rank.

    Raises: ValueError when `dim` is not below the rank.
    """
    rank = int(np.sum(values > values[-1] * len(values) * np.finfo(np.float64).eps))
    paper = 1000 if rank >= 2048 else 512 if rank >= 768 else rank // 2
    dim = paper if dim is None else whole(score, "dim", dim)
    if dim >= rank:
        raise ValueError(f"{score}: dim must be below the rank of the reference features, {rank}; got {dim}")
    return dim


def second_moment(reference: Reference, origin: Float64) -> Float64:
    """E[(h - origin)(h - origin)'] (D, D) over all rows."""

    def part(batch: Batch) -> Sums:
        rows = batch.signals["features"].astype(np.float64) - origin
        return Sums(len(rows), {"squares": rows.T @ rows})

    return reference.reduce(part, "features").mean("squares")


def _matching_scale(reference: Reference, origin: Float64, residual: Float64) -> float:
    def part(batch: Batch) -> Sums:
        rows = batch.signals["features"].astype(np.float64) - origin
        largest = batch.signals["logits"].max(axis=1).astype(np.float64)
        return Sums(len(rows), {"norm": np.linalg.norm(rows @ residual, axis=1).sum(), "logit": largest.sum()})

    total = reference.reduce(part, "features", "logits")
    logit, norm = float(total.of["logit"]), float(total.of["norm"])
    if logit <= 0:
        raise ValueError("vim: the mean largest logit of the reference is not positive, so no scale matches it")
    return logit / norm
