"""Features reshaped by their own largest activations.

A row's k largest activations are those at least as large as the k-th: entries equal to it all count. k is D minus
D percentile / 100 rounded (half to even). s1 is the sum of relu(h), s2 that of the k largest of relu(h), so s1 / s2
lies in [1, D / k]; a row without a positive activation has the ratio 1. On rectified features this is the papers' rule;
on signed ones s2 may be 0 or negative, so `fit` refuses them where noted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from demur.detectors.accumulate import Counts
from demur.detectors.hyper import between
from demur.detectors.numpy_ops import TINY
from demur.detectors.score import Batch, Reference
from demur.detectors.tensor import Ops, Signal, Signals, T

MOST_NEGATIVE = 0.01  # of the reference's activations


@dataclass(frozen=True, eq=False)
class ASHP:
    """The k largest positive activations as they are, 0 elsewhere.

    Shapes: features (N, D) -> features (N, D).
    Raises: ValueError in fit when the percentile is not in (0, 100) or leaves no activation, or when more than 1 % of
    the reference's activations are negative.
    Source: Djurisic et al. 2023, arXiv:2209.09858, algorithm 1 (ASH-P); differs: ties are all kept.
    """

    kept: int  # k
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    outputs: ClassVar[tuple[Signal, ...]] = ("features",)
    passes: ClassVar[int] = 1

    @classmethod
    def fit(cls, reference: Reference, *, percentile: float = 90.0) -> Self:
        return cls(_kept(reference, "ash_p", percentile, rectified=True))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> Signals[T]:
        h = signals["features"]
        return {**signals, "features": xp.where(xp.greater(_floor(xp, _largest(xp, h, self.kept)), h), 0.0, h)}


@dataclass(frozen=True, eq=False)
class ASHB:
    """s1 / n at each of the n kept activations, 0 elsewhere: the sum stays what it was.

    Kept are the k largest, as far as they are positive: n is k but for ties and rows with fewer than k positive
    activations, where the authors' code picks arbitrary zeros.
    Shapes: features (N, D) -> features (N, D).
    Raises: ValueError in fit as `ASHP`.
    Source: Djurisic et al. 2023, arXiv:2209.09858, algorithm 2 (ASH-B).
    """

    kept: int  # k
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    outputs: ClassVar[tuple[Signal, ...]] = ("features",)
    passes: ClassVar[int] = 1

    @classmethod
    def fit(cls, reference: Reference, *, percentile: float = 90.0) -> Self:
        return cls(_kept(reference, "ash_b", percentile, rectified=True))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> Signals[T]:
        h = signals["features"]
        dropped = xp.greater(_floor(xp, _largest(xp, h, self.kept)), h)
        count = xp.sum(xp.where(dropped, 0.0, 1.0), keepdims=True)
        total = xp.sum(xp.maximum(h, 0.0), keepdims=True)
        return {**signals, "features": xp.where(dropped, 0.0, total / xp.maximum(count, 1.0))}


@dataclass(frozen=True, eq=False)
class ASHS:
    """The k largest positive activations times exp(s1 / s2), 0 elsewhere.

    Shapes: features (N, D) -> features (N, D).
    Raises: ValueError in fit as `ASHP`.
    Source: Djurisic et al. 2023, arXiv:2209.09858, algorithm 3 (ASH-S); differs: ties are all kept.
    """

    kept: int  # k
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    outputs: ClassVar[tuple[Signal, ...]] = ("features",)
    passes: ClassVar[int] = 1

    @classmethod
    def fit(cls, reference: Reference, *, percentile: float = 90.0) -> Self:
        return cls(_kept(reference, "ash_s", percentile, rectified=True))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> Signals[T]:
        h = signals["features"]
        positive = xp.maximum(h, 0.0)
        largest = _largest(xp, positive, self.kept)
        scaled = h * xp.exp(_ratio(xp, positive, largest))
        return {**signals, "features": xp.where(xp.greater(_floor(xp, largest), h), 0.0, scaled)}


@dataclass(frozen=True, eq=False)
class Scale:
    """All activations times exp(s1 / s2).

    Shapes: features (N, D) -> features (N, D).
    Raises: ValueError in fit as `ASHP`.
    Source: Xu et al. 2024, arXiv:2310.00227, eq. 6 and 7.
    """

    kept: int  # k
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    outputs: ClassVar[tuple[Signal, ...]] = ("features",)
    passes: ClassVar[int] = 1

    @classmethod
    def fit(cls, reference: Reference, *, percentile: float = 85.0) -> Self:
        return cls(_kept(reference, "scale", percentile, rectified=True))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> Signals[T]:
        h = signals["features"]
        positive = xp.maximum(h, 0.0)
        return {**signals, "features": h * xp.exp(_ratio(xp, positive, _largest(xp, positive, self.kept)))}


@dataclass(frozen=True, eq=False)
class LTS:
    """Logits times (s1 / s2)^2; the features stay. Rectifying is part of it, so signed features are accepted.

    Shapes: features (N, D), logits (N, C) -> logits (N, C).
    Raises: ValueError in fit when the percentile is not in (0, 100) or leaves no activation.
    Source: Djurisic et al. 2024, arXiv:2409.14888, "Logit Scaling for Out-of-Distribution Detection".
    """

    kept: int  # k
    inputs: ClassVar[tuple[Signal, ...]] = ("features", "logits")
    outputs: ClassVar[tuple[Signal, ...]] = ("logits",)
    passes: ClassVar[int] = 1

    @classmethod
    def fit(cls, reference: Reference, *, percentile: float = 95.0) -> Self:
        return cls(_kept(reference, "lts", percentile, rectified=False))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> Signals[T]:
        positive = xp.maximum(signals["features"], 0.0)
        ratio = _ratio(xp, positive, _largest(xp, positive, self.kept))
        return {**signals, "logits": signals["logits"] * (ratio * ratio)}


def _largest(xp: Ops[T], h: T, kept: int) -> T:
    return xp.top(h, kept, ordered=False)


def _floor(xp: Ops[T], largest: T) -> T:
    """The smallest activation that is kept, (N, 1): the k-th largest, where that is positive."""
    return xp.maximum(xp.min(largest, keepdims=True), TINY)


def _ratio(xp: Ops[T], positive: T, largest: T) -> T:
    """s1 / s2, (N, 1), of activations from which negative ones are gone."""
    kept = xp.maximum(xp.sum(largest, keepdims=True), TINY)
    return xp.maximum(xp.sum(positive, keepdims=True) / kept, 1.0)


def _kept(reference: Reference, transform: str, percentile: float, *, rectified: bool) -> int:
    """K of a percentile. Raises: ValueError when k is 0, or on signed features that should be `rectified`."""
    between(transform, "percentile", percentile, 0.0, 100.0)

    def part(batch: Batch) -> Counts:
        h = batch.signals["features"]
        return Counts(np.array([(h < 0).sum(), h.size]))

    negative, total = reference.reduce(part, "features").of
    if rectified and negative > MOST_NEGATIVE * total:
        raise ValueError(
            f"{transform}: expected rectified features, got {negative / total:.1%} negative activations in the reference;"
            " use lts, or a score that does not reshape features"
        )
    width = int(total) // reference.rows
    kept = width - round(width * percentile / 100)
    if kept < 1:
        raise ValueError(f"{transform}: percentile {percentile:g} keeps none of {width} features; lower it")
    return kept
