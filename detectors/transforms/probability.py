"""Probabilities in the place of logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from demur.detectors.numpy_ops import TINY
from demur.detectors.tensor import Ops, Signal, Signals, T

UNIT_TOLERANCE = 1e-2  # a sum over float16 probabilities is this far from 1 at C = 1000
ROUNDING = 1e-3  # votes of trees come out a little below 0


@dataclass(frozen=True, eq=False)
class LogProbabilities:
    """Softmax probabilities as the logits they are the softmax of, up to one number a row: their logarithms.

    Shapes: logits (N, C), rows that sum to 1 -> logits (N, C), ln max(p, 2^-126), at most a rounding above 0, nats. NaN in a
    row that is no distribution: its sum is further than 0.01 from 1, or a value is below -0.001.
    Source: the inverse of softmax (Bridle 1990, NATO ASI F68, eq. 14), whose constant no score of a softmax sees.
    """

    inputs: ClassVar[tuple[Signal, ...]] = ("logits",)
    outputs: ClassVar[tuple[Signal, ...]] = ("logits",)
    passes: ClassVar[int] = 0

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> Signals[T]:
        p = signals["logits"]
        off = xp.abs(xp.sum(p, keepdims=True) - 1.0)
        logs = xp.where(xp.greater(xp.min(p, keepdims=True), -ROUNDING), xp.log(xp.maximum(p, TINY)), float("nan"))
        # The sum, not the smallest value, decides for a NaN: ReduceMin drops one that is not in first place.
        return {**signals, "logits": xp.where(xp.greater(UNIT_TOLERANCE - off, 0.0), logs, float("nan"))}
