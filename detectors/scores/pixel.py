"""Scores made for the pixels of a segmentation: a pixel is a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from demur.detectors.accumulate import ClassMoments, Float64
from demur.detectors.numpy_ops import Array
from demur.detectors.score import EXACT_MERGE, Batch, Reference, Scaling, k_pass
from demur.detectors.scores.class_fit import f32
from demur.detectors.tensor import Ops, Signal, Signals, T

LOWEST = float(np.finfo(np.float32).min)
NEVER_PREDICTED = 1e30  # the least score of a row predicted as a class that no reference row was predicted as


@dataclass(frozen=True, eq=False)
class RbA:
    """Rejected by all: -sum_k tanh(L_k), L_k the evidence for class k, at least 0.

    Of a mask classifier's queries q, L_k = sum_q softmax(class logits of q)_k sigmoid(mask logit of q at the pixel), without
    the class "no object": `demur.adapters.models.segmentation` makes it from the queries.
    Shapes: evidence (N, K) -> (N,). Range: (-K, 0] for evidence of at least 0. Higher is less trustworthy.
    Source: Nayal et al. 2023, arXiv:2211.14293 (RbA).
    """

    inputs: ClassVar[tuple[Signal, ...]] = ("evidence",)
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Nayal et al. 2023, arXiv:2211.14293 (RbA)"

    @classmethod
    def fit(cls, reference: Reference) -> Self:  # noqa: ARG003 - nothing to learn
        return cls()

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        return -xp.sum(xp.tanh(signals["evidence"]))  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class StandardisedMaxLogit:
    """(mean_c - max z) / std_c, c the predicted class (the first among equals): the largest logit against its own class.

    Mean and std (divisor n) of the largest logit are those of the reference rows predicted as c, right or wrong, in float64;
    squares are taken about the mean, in a second pass. std is 1 for a class whose largest logit never varies. A class that
    no reference row was predicted as scores 1e30 or more.
    Shapes: logits (N, C) -> (N,). Range: (-inf, inf), standard deviations. Higher is less trustworthy.
    Source: Jung et al. 2021, arXiv:2107.11264, section 3.2; differs: negated, so that higher is worse. Their second step, on
    neighbouring pixels, belongs to the map and not to a row.
    """

    mean: Array  # (C,)
    std: Array  # (C,)
    least: Array  # (C,), the lowest float32, or 1e30 of a class never predicted
    inputs: ClassVar[tuple[Signal, ...]] = ("logits",)
    scales: ClassVar[Scaling] = k_pass(2)
    source: ClassVar[str] = "Jung et al. 2021, arXiv:2107.11264"

    @classmethod
    def fit(cls, reference: Reference) -> Self:
        classes = next(reference.batches("logits", size=1)).signals["logits"].shape[1]

        def largest(batch: Batch) -> ClassMoments:
            rows, places = _largest(batch)
            return ClassMoments.of(rows[:, None], places, classes)

        first = reference.reduce(largest, "logits")
        seen = first.counts > 0
        mean = np.divide(first.sums[:, 0], first.counts, out=np.zeros(classes), where=seen)

        def squares(batch: Batch) -> ClassMoments:
            rows, places = _largest(batch)
            return ClassMoments.of((rows - mean[places])[:, None] ** 2, places, classes)

        second = reference.reduce(squares, "logits")
        std = np.sqrt(np.divide(second.sums[:, 0], second.counts, out=np.zeros(classes), where=seen))
        varies = std > 1e-7 * np.abs(mean)  # below it, float32 rows are equal
        return cls(f32(mean), f32(np.where(varies, std, 1.0)), f32(np.where(seen, LOWEST, NEVER_PREDICTED)))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        z = signals["logits"]
        predicted = xp.argmax(z)
        score = (xp.take(self.mean, predicted) - xp.max(z)) / xp.take(self.std, predicted)
        return xp.maximum(score, xp.take(self.least, predicted))


def _largest(batch: Batch) -> tuple[Float64, NDArray[np.int64]]:
    """The largest logit of each row, and its place."""
    z = batch.signals["logits"]
    return z.max(axis=1).astype(np.float64), z.argmax(axis=1)
