"""Regret of a learner that could have seen the row with any label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from demur.detectors.accumulate import Float64, Sums
from demur.detectors.numpy_ops import Array
from demur.detectors.score import Batch, Reference, Scaling, k_pass
from demur.detectors.scores.class_fit import f32
from demur.detectors.tensor import Ops, Signal, Signals, T


@dataclass(frozen=True, eq=False)
class PNML:
    """Regret of the predictive normalised maximum likelihood learner, as a logarithm to the base C.

    log_C sum_i p_i / (p_i + p_i^g (1 - p_i)): u = h / |h| (the zero vector stays zero), p = softmax(W u + b), x = [1, u],
    a = x' (X'X)^+ x over the reference rows X = [1, u], g = max(a / (1 + a), |x_perp|^2), x_perp the part of x outside the
    span of the reference. Directions count as outside when their eigenvalue of X'X is below (D + 1) eps^2 times the
    largest, eps = 2^-23. The sum is taken as 1 + sum_i p_i (1 - p_i)(1 - p_i^g) / (p_i + p_i^g (1 - p_i)), so that small
    regrets keep their digits.
    Shapes: features (N, D) -> (N,). Range: [0, 1], dimensionless. Higher is less trustworthy.
    Raises: ValueError in fit without a head, or with one class.
    Source: Bibas et al. 2021, arXiv:2110.09246, theorem 1, in the form of the authors' code (unit features, constant column).
    """

    centre: Array  # (D,), the mean unit feature
    weight: Array  # (C, D)
    bias: Array  # (C,), W centre + b
    whiten: Array  # (D, R), a = |(u - centre) whiten + start|^2
    start: Array  # (R,)
    outside: Array | None  # (D, D + 1 - R), |x_perp| = |(u - centre) outside + edge|; None when R = D + 1
    edge: Array | None  # (D + 1 - R,)
    log_classes: float
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = k_pass(1)
    source: ClassVar[str] = "Bibas et al. 2021, arXiv:2110.09246, theorem 1"

    @classmethod
    def fit(cls, reference: Reference) -> Self:
        weight, bias = reference.head("pnml")
        if len(weight) < 2:
            raise ValueError("pnml: expected a head of at least 2 classes, got 1")
        gram = _gram(reference)
        centre = f32(gram[0, 1:] / gram[0, 0])
        values, vectors = np.linalg.eigh(gram)
        seen = values > values[-1] * len(values) * float(np.finfo(np.float32).eps) ** 2
        whiten = vectors[:, seen] / np.sqrt(values[seen])
        outside = None if seen.all() else vectors[:, ~seen]
        return cls(
            centre,
            f32(weight),
            f32(bias + weight @ centre),
            f32(whiten[1:]),
            f32(whiten[0] + centre @ whiten[1:]),
            None if outside is None else f32(outside[1:]),
            None if outside is None else f32(outside[0] + centre @ outside[1:]),
            float(np.log(len(weight))),
        )

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        here = xp.unit(signals["features"]) - self.centre
        log_p = xp.log_softmax(xp.linear(here, self.weight, self.bias))
        extra = (self._leverage(xp, here) - 1.0) * log_p  # log p^(g - 1)
        rest = _one_less_exp(xp, log_p)
        regrets = rest * _one_less_exp(xp, extra + log_p) / (1.0 + xp.exp(extra) * rest)
        return _log_of_one_more(xp, xp.sum(regrets)) / self.log_classes  # type: ignore[no-any-return]

    def _leverage(self, xp: Ops[T], here: T) -> T:
        """g, (N, 1)."""
        z = here @ self.whiten + self.start
        a = xp.sum(z * z, keepdims=True)
        inside: T = a / (1.0 + a)
        if self.outside is None:
            return inside
        left = here @ self.outside + self.edge
        return xp.maximum(inside, xp.sum(left * left, keepdims=True))


def _gram(reference: Reference) -> Float64:
    """X'X (D + 1, D + 1) of the rows [1, u]."""

    def part(batch: Batch) -> Sums:
        rows = batch.signals["features"].astype(np.float64)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = np.hstack([np.ones_like(lengths), rows / np.where(lengths > 0, lengths, 1.0)])
        return Sums(len(rows), {"squares": rows.T @ rows})

    return reference.reduce(part, "features").of["squares"]


def _one_less_exp(xp: Ops[T], x: T) -> T:
    """1 - exp(x) for x <= 0, without its cancellation near 0: with t = tanh(-x / 2), it is 2 t / (1 + t)."""
    t = xp.tanh(-0.5 * x)
    return 2.0 * t / (1.0 + t)  # type: ignore[no-any-return]


def _log_of_one_more(xp: Ops[T], x: T) -> T:
    """log(1 + x) for x >= 0, exact for small x too: log(u) x / (u - 1) with the rounded u = 1 + x (Kahan)."""
    u = 1.0 + x
    return xp.where(xp.greater(u, 1.0), xp.log(u) * (x / xp.maximum(u - 1.0, 1e-30)), x)
