"""How much a row adds to a metric space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from demur.detectors.accumulate import Float64
from demur.detectors.hyper import between
from demur.detectors.numpy_ops import Array
from demur.detectors.score import Reference, Scaling, sample
from demur.detectors.scores.bank import kept_rows
from demur.detectors.scores.class_fit import f32
from demur.detectors.tensor import Ops, Signal, Signals, T

MAGNITUDE_ROWS = 128


@dataclass(frozen=True, eq=False)
class Magnitude:
    """The row's weight in the magnitude of the bank with the row added.

    The weights w of M + 1 points solve (Z + ridge I) w = 1 with Z_ij = exp(-t |x_i - x_j|), |.| Euclidean; the row's own,
    by Schur complement, is (1 - z'A1) / (1 + ridge - z'Az), A = (Z + ridge I)^-1 over the bank, z_i = exp(-t |h - x_i|).
    t = `scale`, by default 1 over the median distance between different bank rows (1 if that is 0). The ridge keeps a copy
    of a bank row from being 0 / 0; `ridge: 0` is the pure form, and NaN there.
    Shapes: features (N, D) -> (N,). Range: (-inf, inf), at most about 1; 1 / (1 + ridge) far away. Higher is less
    trustworthy.
    Raises: ValueError in fit with under 2 rows, rows that make Z singular, a ridge outside [0, 1] or a scale that is not
    positive.
    Source: Leinster 2013, arXiv:1012.5857, section 2; Bunch et al. 2020, arXiv:2006.14063 (weights as outlier scores).
    """

    bank: Array  # (M, D)
    weights: Array  # (M,), A1
    root: Array  # (M, M), root' root = A, transposed
    scale: float
    ridge: float
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = sample(MAGNITUDE_ROWS)
    source: ClassVar[str] = "Leinster 2013, arXiv:1012.5857, section 2; Bunch et al. 2020, arXiv:2006.14063"

    @classmethod
    def fit(
        cls,
        reference: Reference,
        *,
        bank: int = MAGNITUDE_ROWS,
        scale: float | None = None,
        ridge: float = 0.01,
        select: str = "random",
        seed: int = 0,
    ) -> Self:
        between("magnitude", "ridge", ridge, -1e-300, 1.0)
        rows = kept_rows(reference, "magnitude", "features", size=bank, seed=seed, select=select, least=2).signals[
            "features"
        ]
        gaps = np.array([np.sqrt(((rows - row) ** 2).sum(axis=1)) for row in rows])
        factor = _factor(np.exp(-_scale(scale, gaps) * gaps) + ridge * np.eye(len(rows)))
        root = np.asarray(np.linalg.inv(factor), np.float64)
        return cls(f32(rows), f32(root.T @ root.sum(axis=1)), f32(root.T), _scale(scale, gaps), float(ridge))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        apart = xp.one_part(signals["features"]) - self.bank
        near = xp.exp(-self.scale * xp.sqrt(xp.sum(apart * apart)))
        explained = near @ self.root
        return (1.0 - xp.sum(near * self.weights)) / (1.0 + self.ridge - xp.sum(explained * explained))  # type: ignore[no-any-return]


def _scale(scale: float | None, gaps: Float64) -> float:
    if scale is not None:
        return between("magnitude", "scale", scale, 0.0, 1e30)
    middle = float(np.median(gaps[np.triu_indices(len(gaps), 1)]))
    return 1 / middle if middle > 0 else 1.0


def _factor(similarity: Float64) -> Float64:
    try:
        return np.asarray(np.linalg.cholesky(similarity), np.float64)
    except np.linalg.LinAlgError:
        hint = "rows are copies of each other, or the scale is too small; use a larger ridge"
        raise ValueError(f"magnitude: the bank's similarities are singular: {hint}") from None
