"""Likeness to what a class looks like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from demur.detectors.hyper import one_of
from demur.detectors.numpy_ops import Array
from demur.detectors.score import EXACT_MERGE, Reference, Scaling
from demur.detectors.scores.class_fit import f32
from demur.detectors.scores.seen import class_means
from demur.detectors.tensor import Ops, Signal, Signals, T


@dataclass(frozen=True, eq=False)
class SHE:
    """Unlikeness of the features to the mean feature of the class the model predicts.

    S_c is the mean of the correctly answered rows with label c, c^ the predicted class (the first among equals). By
    `metric`: "inner_product" -h . S_c^, "cosine" 1 - cos(h, S_c^) as half the squared difference of the unit vectors
    (1 for the zero vector), "euclidean" |h - S_c^|.
    Shapes: features (N, D), logits (N, C) -> (N,). Range: (-inf, inf) squared units of the features, [0, 2], or
    [0, inf) units of the features. Higher is less trustworthy.
    Raises: ValueError in fit without labels, with labels outside 0..C-1, when a class has no correctly answered row, or
    for "cosine" when an S_c is zero.
    Source: Zhang et al. 2023, "Out-of-distribution detection based on in-distribution data patterns memorization with
    modern Hopfield energy", eq. 5.
    """

    patterns: Array  # (C, D), unit vectors for "cosine"
    metric: str
    inputs: ClassVar[tuple[Signal, ...]] = ("features", "logits")
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Zhang et al. 2023, ICLR (SHE), eq. 5"

    @classmethod
    def fit(cls, reference: Reference, *, metric: str = "inner_product") -> Self:
        one_of("she", "metric", metric, ("inner_product", "cosine", "euclidean"))
        patterns = class_means(reference, "she")
        if metric == "cosine":
            lengths = np.linalg.norm(patterns, axis=1, keepdims=True)
            if not lengths.min() > 0:
                raise ValueError(f"she: the mean feature of class {int(lengths.argmin())} is zero; it has no direction")
            patterns = patterns / lengths
        return cls(f32(patterns), metric)

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        features = signals["features"]
        pattern = xp.take(self.patterns, xp.argmax(signals["logits"]))
        if self.metric == "inner_product":
            return -xp.sum(features * pattern)  # type: ignore[no-any-return]
        if self.metric == "euclidean":
            return xp.norm(features - pattern)
        apart = xp.unit(features) - pattern
        has_direction = xp.greater(xp.max(xp.abs(features)), 0.0)
        return xp.where(has_direction, 0.5 * xp.sum(apart * apart), 1.0)
