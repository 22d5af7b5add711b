"""Two banks: how much closer a row is to what is known to be foreign."""

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
class ContrastiveBanks:
    """k-th cosine distance to the reference's bank minus the k-th cosine distance to a bank of foreign rows.

    Each distance as in `knn`, 1 - cos; both banks hold at most `bank` rows. A row strange to both, and the zero vector,
    scores about 0: fuse it with a one-bank distance when strangers unlike the given outliers are expected.
    Shapes: features (N, D) -> (N,). Range: [-2, 2], dimensionless. Higher is less trustworthy.
    Raises: ValueError in fit without the side "outliers", or when either bank keeps fewer than k rows with a direction or a row is not finite.
    Source: own; the form of two-bank (positive minus negative) neighbour distances on Sun et al. 2022, arXiv:2204.06507.
    """

    centre: Array  # (D,), the mean of the reference's unit vectors
    bank: Array  # (M, D), unit vectors minus the centre
    bank_sq: Array  # (M,)
    foreign: Array  # (M', D)
    foreign_sq: Array  # (M',)
    k: int
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = sample(2 * BANK_ROWS)
    source: ClassVar[str] = "own, after Sun et al. 2022, arXiv:2204.06507, eq. 3, for two banks"

    @classmethod
    def fit(
        cls, reference: Reference, *, k: int = 10, bank: int = BANK_ROWS, select: str = "random", seed: int = 0
    ) -> Self:
        least = whole("contrastive_banks", "k", k)
        sides = {"reference": reference, "outliers": reference.side("outliers", "contrastive_banks")}
        ours, theirs = (
            kept_rows(
                side,
                "contrastive_banks",
                "features",
                size=bank,
                seed=seed,
                select=select,
                unit=True,
                least=least,
                role=role,
            ).signals["features"]
            for role, side in sides.items()
        )
        centre = ours.mean(axis=0).astype(np.float32)
        known, foreign = (stored("contrastive_banks", rows - centre, "float32") for rows in (ours, theirs))
        return cls(centre, known.rows, known.squares, foreign.rows, foreign.squares, k)

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        x = signals["features"]
        here = xp.unit(x) - self.centre
        known = self._distance(xp, here, self.bank, self.bank_sq)
        foreign = self._distance(xp, here, self.foreign, self.foreign_sq)
        return xp.where(has_direction(xp, x), known - foreign, 0.0)

    def _distance(self, xp: Ops[T], here: T, bank: Array, squares: Array) -> T:
        apart = here - xp.take(bank, xp.argkth_smallest(closeness(xp, here, bank, squares, None, "float32"), self.k))
        return 0.5 * xp.sum(apart * apart)  # type: ignore[no-any-return]
