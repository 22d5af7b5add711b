"""Features in units of their spread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from demur.detectors.accumulate import Sums
from demur.detectors.numpy_ops import Array
from demur.detectors.score import Batch, Reference
from demur.detectors.tensor import Ops, Signal, Signals, T


@dataclass(frozen=True, eq=False)
class Standardise:
    """(h - mean) / std, feature by feature, over all reference rows.

    std has the divisor n and is 1 for a feature that never varies. Two passes: squares are taken about the mean.
    Shapes: features (N, D) -> features (N, D), dimensionless.
    Source: textbook z-score.
    """

    mean: Array  # (D,)
    std: Array  # (D,)
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    outputs: ClassVar[tuple[Signal, ...]] = ("features",)
    passes: ClassVar[int] = 2

    @classmethod
    def fit(cls, reference: Reference) -> Self:
        def total(batch: Batch) -> Sums:
            h = batch.signals["features"].astype(np.float64)
            return Sums(len(h), {"features": h.sum(axis=0)})

        mean = reference.reduce(total, "features").mean("features")

        def squares(batch: Batch) -> Sums:
            apart = batch.signals["features"].astype(np.float64) - mean
            return Sums(len(apart), {"squares": (apart * apart).sum(axis=0)})

        std = np.sqrt(reference.reduce(squares, "features").mean("squares"))
        varies = std > 1e-12 * np.abs(mean)
        return cls(mean.astype(np.float32), np.where(varies, std, 1.0).astype(np.float32))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> Signals[T]:
        del xp
        return {**signals, "features": (signals["features"] - self.mean) / self.std}
