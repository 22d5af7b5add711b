"""Distance to stored neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from demur.detectors.hyper import one_of, whole
from demur.detectors.numpy_ops import Array
from demur.detectors.sample import sample_rows
from demur.detectors.score import Reference, Scaling, sample
from demur.detectors.tensor import Ops, Signal, Signals, T

BANK_ROWS = 10_000


@dataclass(frozen=True, eq=False)
class KNN:
    """Cosine distance 1 - cos from the features to their k-th nearest neighbour in the bank.

    Neighbours are ranked in coordinates centred on the bank, and the distance is half the squared difference of the
    unit vectors: 1 - u.b itself, and sqrt(2 - 2 u.b), lose all digits on features with a common offset. The zero vector
    has no direction: its distance is 1.
    Shapes: features (N, D) -> (N,). Range: [0, 2], dimensionless. Higher is less trustworthy.
    Raises: ValueError in fit when fewer than k reference rows have a direction.
    Source: Sun et al. 2022, arXiv:2204.06507, eq. 3; differs: half the square of the paper's distance (same order), a
    seeded sample of `bank` rows.
    """

    centre: Array  # (D,), the mean of the unit vectors in the bank
    bank: Array  # (M, D), unit vectors minus the centre
    bank_sq: Array  # (M,)
    k: int
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = sample(BANK_ROWS)
    source: ClassVar[str] = "Sun et al. 2022, arXiv:2204.06507, eq. 3"

    @classmethod
    def fit(
        cls, reference: Reference, *, k: int = 50, bank: int = BANK_ROWS, metric: str = "cosine", seed: int = 0
    ) -> Self:
        one_of("knn", "metric", metric, ("cosine",))
        rows = sample_rows(reference, "features", whole("knn", "bank", bank), whole("knn", "seed", seed, least=0))
        lengths = np.linalg.norm(rows, axis=1)
        rows, lengths = rows[lengths > 0], lengths[lengths > 0]
        if len(rows) < whole("knn", "k", k):
            raise ValueError(f"knn: k = {k} neighbours need at least {k} non-zero rows in the bank, got {len(rows)}")
        units = rows / lengths[:, None]
        centre = units.mean(axis=0).astype(np.float32)
        stored = (units - centre).astype(np.float32)
        return cls(centre, stored, np.sum(stored.astype(np.float64) ** 2, axis=1).astype(np.float32), k)

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        x = signals["features"]
        here = xp.unit(x) - self.centre
        place = xp.argkth_smallest(xp.linear(here, self.bank, self.bank_sq, scale=-2.0), self.k)
        apart = here - xp.take(self.bank, place)
        has_direction = xp.greater(xp.max(xp.abs(x)), 0.0)
        return xp.where(has_direction, 0.5 * xp.sum(apart * apart), 1.0)
