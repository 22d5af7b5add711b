"""Scores of the logits that compare with the reference's class distributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from demur.detectors.accumulate import ClassMoments, Counts, Float64
from demur.detectors.numpy_ops import TINY, Array
from demur.detectors.score import EXACT_MERGE, Batch, Reference, Scaling
from demur.detectors.scores.softmax import class_count
from demur.detectors.scores.temperature import labels_of
from demur.detectors.tensor import Ops, Signal, Signals, T


@dataclass(frozen=True, eq=False)
class KLMatching:
    """The smallest divergence KL(p || d_k) = sum p log(p / d_k) from a mean posterior.

    p is the softmax; d_k is the mean softmax of all reference rows, right and wrong, whose first largest logit is k;
    classes never predicted are left out. d_k is kept as its logarithm, not below that of the smallest normal float32.
    The nearest k is found from sum p log d_k, and its divergence summed term by term, so it does not cancel.
    Shapes: logits (N, C) -> (N,). Range: [0, inf), nats, down to -1e-7 by rounding. Higher is less trustworthy.
    Raises: ValueError in fit with under 2 classes.
    Source: Hendrycks et al. 2022, arXiv:1911.11132 (KL matching).
    """

    log_means: Array  # (K, C)
    inputs: ClassVar[tuple[Signal, ...]] = ("logits",)
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Hendrycks et al. 2022, arXiv:1911.11132 (KL matching)"

    @classmethod
    def fit(cls, reference: Reference) -> Self:
        classes = class_count(reference, "kl_matching")
        moments = reference.reduce(lambda batch: _by_prediction(batch, classes), "logits")
        predicted = moments.counts > 0
        means = moments.sums[predicted] / moments.counts[predicted, None]
        return cls(np.log(np.maximum(means, TINY)).astype(np.float32))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        log_p = xp.log_softmax(signals["logits"])
        p = xp.exp(log_p)
        nearest = xp.argmax(xp.linear(p, self.log_means))
        return xp.sum(p * (log_p - xp.take(self.log_means, nearest)))


def _by_prediction(batch: Batch, classes: int) -> ClassMoments:
    z = batch.signals["logits"]
    p = np.exp(z.astype(np.float64) - z.max(axis=1, keepdims=True))
    return ClassMoments.of(p / p.sum(axis=1, keepdims=True), z.argmax(axis=1), classes)


@dataclass(frozen=True, eq=False)
class WeightedEnergy:
    """-log sum_c w_c exp(z_c), with w_c > 0.

    `weights`: C numbers above 0, or "prior", each class's share of all reference labels divided by the mean share.
    Shapes: logits (N, C) -> (N,). Range: (-inf, inf), nats. Higher is less trustworthy.
    Raises: ValueError in fit when there are not C positive weights; for "prior" without labels in 0..C-1, or when a
    class has no label.
    Source: Du et al. 2022, arXiv:2202.01197, the energy of its uncertainty loss; differs: weights are given or frequencies, not trained with the
    network; log w is added to the logits, so nothing overflows.
    """

    log_weights: Array  # (C,)
    inputs: ClassVar[tuple[Signal, ...]] = ("logits",)
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Du et al. 2022, arXiv:2202.01197 (weighted energy)"

    @classmethod
    def fit(cls, reference: Reference, *, weights: Sequence[float] | str = "prior") -> Self:
        classes = class_count(reference, "weighted_energy")
        if weights == "prior":
            return cls(np.log(_prior(reference, classes)).astype(np.float32))
        given: list[Any] = [] if isinstance(weights, str) or not isinstance(weights, Sequence) else list(weights)
        if len(given) != classes or not all(type(w) in (int, float) and 0 < w < np.inf for w in given):
            raise ValueError(f"weighted_energy: weights must be prior or {classes} positive numbers, got {weights!r}")
        return cls(np.log(np.asarray(given, np.float64)).astype(np.float32))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        return -xp.logsumexp(signals["logits"] + self.log_weights)  # type: ignore[no-any-return]


def _prior(reference: Reference, classes: int) -> Float64:
    def part(batch: Batch) -> Counts:
        return Counts(np.bincount(labels_of(batch, classes, "weighted_energy"), minlength=classes))

    counts: NDArray[np.int64] = reference.reduce(part, "logits").of
    absent = np.flatnonzero(counts == 0).tolist()
    if absent:
        raise ValueError(f"weighted_energy: classes {absent} have no label in the reference; give the weights")
    return np.asarray(counts / counts.mean(), np.float64)
