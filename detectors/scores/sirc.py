"""SIRC: a softmax score sharpened by a second opinion of the features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from demur.detectors.accumulate import Moments
from demur.detectors.hyper import one_of
from demur.detectors.score import Batch, Reference, Scaling, k_pass
from demur.detectors.scores.softmax import class_count, log_entropy, log_odds, log_rest
from demur.detectors.scores.subspace import Residual
from demur.detectors.tensor import Ops, Signal, Signals, T

FIRST = ("msp", "entropy", "doctor")


@dataclass(frozen=True, eq=False)
class SIRC:
    """log(S1max - S1) + log(1 + exp(-(S2 - a) / s)): a softmax confidence S1 and a feature confidence S2.

    S1max - S1 is 1 - max p (`of`: msp), the entropy in nats (entropy), or (1 - sum p^2) / sum p^2 (doctor), each in log
    space, exact where p rounds to 1. S2 is minus |(h - u) N|, ViM's residual norm with its `dim` and default (`by`:
    residual), or the sum |h|_1 (l1). a = m - 3 s, with m and s the mean and standard deviation (divisor n) of S2 over
    all reference rows.
    Shapes: logits (N, C), features (N, D) -> (N,). Range: (-inf, inf), nats. Higher is less trustworthy.
    Raises: ValueError in fit with under 2 classes, an unknown `of` or `by`, a constant S2; by residual also without a
    head, or when `dim` is not below the rank of the features.
    Source: Xia & Bouganis 2022, arXiv:2207.07517, eq. 11; differs: the logarithm of its negative, which has the same
    order.
    """

    of: str
    by: str
    mean: float
    spread: float
    residual: Residual | None
    inputs: ClassVar[tuple[Signal, ...]] = ("logits", "features")
    scales: ClassVar[Scaling] = k_pass(3)
    source: ClassVar[str] = "Xia & Bouganis 2022, arXiv:2207.07517"

    @classmethod
    def fit(cls, reference: Reference, *, of: str = "msp", by: str = "residual", dim: int | None = None) -> Self:
        class_count(reference, "sirc")
        one_of("sirc", "of", of, FIRST)
        by_residual = one_of("sirc", "by", by, ("residual", "l1")) == "residual"
        residual = Residual.fit(reference, dim=dim) if by_residual else None
        return cls(of, by, *_of_second(reference, residual), residual)

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        first = _first(xp, self.of, xp.log_softmax(signals["logits"]))
        second = xp.sum(xp.abs(signals["features"])) if self.residual is None else -self.residual(xp, signals)
        t = (self.mean - second) / self.spread - 3.0
        return first + xp.maximum(t, 0.0) + xp.log(1.0 + xp.exp(-xp.abs(t)))  # type: ignore[no-any-return]


def _first(xp: Ops[T], of: str, log_p: T) -> T:
    """log(S1max - S1)."""
    if of == "msp":
        return log_rest(xp, log_p)
    return log_entropy(xp, log_p) if of == "entropy" else log_odds(xp, log_p)


def _of_second(reference: Reference, residual: Residual | None) -> tuple[float, float]:
    """Mean and standard deviation of S2."""

    def part(batch: Batch) -> Moments:
        h = batch.signals["features"].astype(np.float64)
        if residual is None:
            return Moments.of(np.abs(h).sum(axis=1)[:, None])
        outside = (h - residual.mean) @ residual.residual.astype(np.float64) + residual.shift
        return Moments.of(-np.linalg.norm(outside, axis=1)[:, None])

    total = reference.reduce(part, "features")
    mean, spread = float(total.mean[0]), float(np.sqrt(total.scatter[0, 0] / total.count))
    if spread <= 1e-12 * abs(mean):
        raise ValueError("sirc: the feature confidence is the same for every reference row")
    return mean, spread
