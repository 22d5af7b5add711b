"""Density beside that of the neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from demur.detectors.accumulate import Float64
from demur.detectors.hyper import whole
from demur.detectors.numpy_ops import Array
from demur.detectors.score import Reference, Scaling, sample
from demur.detectors.scores.bank import BANK_ROWS, closeness, kept_rows, stored
from demur.detectors.scores.class_fit import f32
from demur.detectors.tensor import Ops, Signal, Signals, T

NEVER_ZERO = 1e-10  # added to a mean reach distance, as scikit-learn does: copies have a density


@dataclass(frozen=True, eq=False)
class LOF:
    """Local outlier factor: the mean density of the row's k nearest bank rows over its own density.

    density(x) = 1 / (mean over the k nearest bank rows b of max(|x - b|, reach_b) + 1e-10); reach_b is the distance of b
    to its k-th nearest other bank row, and b's own density is taken among the other bank rows. Euclidean; equal distances
    in the order of the bank. A row equal to a bank row has it as a neighbour.
    Shapes: features (N, D) -> (N,). Range: [0, inf), dimensionless; about 1 inside. Higher is less trustworthy.
    Raises: ValueError in fit with k or fewer rows, or a row that is not finite.
    Source: Breunig et al. 2000, SIGMOD, definitions 5 to 7, of a new row against the bank (scikit-learn's novelty=True).
    """

    centre: Array  # (D,), the mean of the bank
    bank: Array  # (M, D), minus the centre
    bank_sq: Array  # (M,)
    reach: Array  # (M,)
    density: Array  # (M,)
    k: int
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = sample(BANK_ROWS)
    source: ClassVar[str] = "Breunig et al. 2000, SIGMOD, definitions 5 to 7"

    @classmethod
    def fit(
        cls, reference: Reference, *, k: int = 20, bank: int = BANK_ROWS, select: str = "random", seed: int = 0
    ) -> Self:
        least = whole("lof", "k", k) + 1
        kept = kept_rows(reference, "lof", "features", size=bank, seed=seed, select=select, least=least).signals[
            "features"
        ]
        centre = kept.mean(axis=0).astype(np.float32)
        rows, _, squares = stored("lof", kept - centre, "float32")
        reach, density = _densities(rows.astype(np.float64), k)
        return cls(centre, rows, squares, f32(reach), f32(density), k)

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        here = signals["features"] - self.centre
        _, places = xp.bottom(closeness(xp, here, self.bank, self.bank_sq, None, "float32"), self.k)
        gaps = xp.norm(xp.one_part(here) - xp.take(self.bank, places))
        reached = xp.mean(xp.maximum(gaps, xp.take(self.reach, places))) + NEVER_ZERO
        return xp.mean(xp.take(self.density, places)) * reached  # type: ignore[no-any-return]


def _densities(rows: Float64, k: int) -> tuple[Float64, Float64]:
    """Reach and density (M,) of each row among the others."""
    gaps, places = np.empty((len(rows), k)), np.empty((len(rows), k), np.int64)
    for i, row in enumerate(rows):
        squares = ((rows - row) ** 2).sum(axis=1)
        squares[i] = np.inf
        near = np.argpartition(squares, k - 1)[:k] if k < len(rows) else np.arange(len(rows))
        places[i] = near[np.lexsort((near, squares[near]))]
        gaps[i] = np.sqrt(squares[places[i]])
    reach = gaps[:, -1]
    return reach, 1 / (np.maximum(gaps, reach[places]).mean(axis=1) + NEVER_ZERO)
