"""Maps of photometric errors: how much of a frame does not move as depth and motion say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from demur.detectors.hyper import between
from demur.detectors.numpy_ops import TINY
from demur.detectors.score import EXACT_MERGE, Reference, Scaling
from demur.detectors.tensor import Ops, Signal, Signals, T

MOST_DEVIATIONS = 100.0


@dataclass(frozen=True, eq=False)
class Photometric:
    """Share of the pixels whose error lies above mean + k std of their own map (std with the divisor n).

    Such pixels move, are hidden in the other frame, or their depth is wrong. A constant map has none.
    Shapes: photometric_error (N, H * W) -> (N,). Range: [0, 1 / (1 + k^2)], Cantelli's bound. Higher is less trustworthy.
    Source: Jiang et al. 2020, arXiv:2003.01360 (DiPE), outlier mask; k is theirs to choose, 1 here.
    """

    k: float
    inputs: ClassVar[tuple[Signal, ...]] = ("photometric_error",)
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Jiang et al. 2020, arXiv:2003.01360 (DiPE: photometric outlier mask)"

    @classmethod
    def fit(cls, reference: Reference, *, k: float = 1.0) -> Self:
        next(reference.batches("photometric_error", size=1))
        return cls(between("photometric", "k", k, 0.0, MOST_DEVIATIONS))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        e = signals["photometric_error"]
        risen = e - xp.min(e, keepdims=True)  # exactly 0 everywhere on a constant map, whatever its mean rounds to
        scaled = risen / xp.maximum(xp.max(risen, keepdims=True), TINY)
        apart = scaled - xp.mean(scaled, keepdims=True)
        std = xp.sqrt(xp.mean(apart * apart, keepdims=True))
        return xp.mean(xp.where(xp.greater(apart, std * self.k), 1.0, 0.0))
