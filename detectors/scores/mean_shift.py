"""Neighbours as seen from the middle of the reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from demur.detectors.accumulate import Float64, Sums
from demur.detectors.hyper import whole
from demur.detectors.numpy_ops import Array
from demur.detectors.sample import sample_rows
from demur.detectors.score import Batch, Reference, Scaling, sample
from demur.detectors.scores.class_fit import f32
from demur.detectors.tensor import Ops, Signal, Signals, T

BANK_ROWS = 10_000


@dataclass(frozen=True, eq=False)
class MeanShifted:
    """Sum of the squared distances to the k nearest neighbours among directions from the mean direction.

    theta(x) = unit(unit(h) - c), c the mean of unit(h) over all reference rows that are not zero; the neighbours are the
    theta of a seeded sample of `bank` rows, without rows that are zero or have none. A row whose unit feature is c has
    theta 0; that of the zero vector is -c / |c|.
    Shapes: features (N, D) -> (N,). Range: [0, 4 k], dimensionless. Higher is less trustworthy.
    Raises: ValueError in fit when fewer than k reference rows have a theta.
    Source: Reiss & Hoshen 2023, arXiv:2106.03844, eq. 5 and section 4.4 (k = 2); differs: without training, and the
    neighbours are sought among the mean-shifted directions.
    """

    centre: Array  # (D,), c
    bank: Array  # (M, D), theta of the bank
    k: int
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = sample(BANK_ROWS)
    source: ClassVar[str] = "Reiss & Hoshen 2023, arXiv:2106.03844, eq. 5"

    @classmethod
    def fit(cls, reference: Reference, *, k: int = 2, bank: int = BANK_ROWS, seed: int = 0) -> Self:
        name = "mean_shifted"
        rows = sample_rows(reference, "features", whole(name, "bank", bank), whole(name, "seed", seed, least=0))
        centre = _mean_direction(reference)
        apart = _units(rows) - centre
        lengths = np.linalg.norm(apart, axis=1, keepdims=True)
        kept = (lengths[:, 0] > 0) & rows.any(axis=1)
        if kept.sum() < whole(name, "k", k):
            raise ValueError(
                f"{name}: k = {k} neighbours need as many reference rows with a direction, got {kept.sum()}"
            )
        return cls(f32(centre), f32(apart[kept] / lengths[kept]), k)

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        here = xp.unit(xp.unit(signals["features"]) - self.centre)
        _, places = xp.bottom(xp.linear(here, self.bank, scale=-2.0), self.k)
        apart = xp.one_part(here) - xp.take(self.bank, places)
        return xp.sum(xp.sum(apart * apart))


def _units(rows: Float64) -> Float64:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1.0))


def _mean_direction(reference: Reference) -> Float64:
    def part(batch: Batch) -> Sums:
        rows = batch.signals["features"].astype(np.float64)
        return Sums(int(rows.any(axis=1).sum()), {"units": _units(rows).sum(axis=0)})

    total = reference.reduce(part, "features")
    return total.of["units"] / max(total.rows, 1)
