"""Neighbours in the space of a projection head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from demur.detectors.hyper import whole
from demur.detectors.numpy_ops import Array
from demur.detectors.score import Reference, Scaling, sample
from demur.detectors.scores.bank import BANK_ROWS, closeness, has_direction, kept_rows, stored
from demur.detectors.tensor import Ops, Signal, Signals, T


@dataclass(frozen=True, eq=False)
class CIDER:
    """Squared distance of the unit projection to its k-th nearest neighbour among the bank's unit projections.

    Twice what `knn` gives `on: projection`, by its name in the literature. The zero vector has no direction: 2.
    Shapes: projection (N, P) -> (N,). Range: [0, 4], dimensionless. Higher is less trustworthy.
    Raises: ValueError in fit when fewer than k rows with a direction remain, or as `knn`.
    Source: Ming et al. 2023, arXiv:2203.04450, section 4.1; differs: a bank of `bank` rows.
    """

    centre: Array  # (P,), the mean of the unit vectors in the bank
    bank: Array  # (M, P), unit vectors minus the centre
    bank_sq: Array  # (M,)
    k: int
    inputs: ClassVar[tuple[Signal, ...]] = ("projection",)
    scales: ClassVar[Scaling] = sample(BANK_ROWS)
    source: ClassVar[str] = "Ming et al. 2023, arXiv:2203.04450, section 4.1"

    @classmethod
    def fit(
        cls, reference: Reference, *, k: int = 50, bank: int = BANK_ROWS, select: str = "random", seed: int = 0
    ) -> Self:
        least = whole("cider", "k", k)
        units = kept_rows(
            reference, "cider", "projection", size=bank, seed=seed, select=select, unit=True, least=least
        ).signals["projection"]
        centre = units.mean(axis=0).astype(np.float32)
        rows, _, squares = stored("cider", units - centre, "float32")
        return cls(centre, rows, squares, k)

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        x = signals["projection"]
        here = xp.unit(x) - self.centre
        place = xp.argkth_smallest(closeness(xp, here, self.bank, self.bank_sq, None, "float32"), self.k)
        apart = here - xp.take(self.bank, place)
        return xp.where(has_direction(xp, x), xp.sum(apart * apart), 2.0)
