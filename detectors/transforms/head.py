"""Logits recomputed from the features by the model's last layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from demur.detectors.accumulate import Float64, Sums
from demur.detectors.hyper import between
from demur.detectors.numpy_ops import Array
from demur.detectors.score import Batch, Reference
from demur.detectors.tensor import Ops, Signal, Signals, T


def _f32(x: Float64) -> Array:
    return np.ascontiguousarray(x, np.float32)


@dataclass(frozen=True, eq=False)
class LinearHead:
    """Logits W h + b.

    Shapes: features (N, D) -> logits (N, C).
    Raises: ValueError in fit without a head.
    """

    weight: Array  # (C, D)
    bias: Array  # (C,)
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    outputs: ClassVar[tuple[Signal, ...]] = ("logits",)
    passes: ClassVar[int] = 0

    @classmethod
    def fit(cls, reference: Reference) -> Self:
        weight, bias = reference.head("linear_head")
        return cls(_f32(weight), _f32(bias))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> Signals[T]:
        return {**signals, "logits": xp.linear(signals["features"], self.weight, self.bias)}


@dataclass(frozen=True, eq=False)
class DICE:
    """Logits (M * W) h + b, with only the weights that contribute most.

    M is 1 where the contribution E[h]_d W_cd, over the mean of all reference rows, is strictly above the ceil(q n)-th
    smallest of all n = C D contributions, q = `percentile` / 100.
    Shapes: features (N, D) -> logits (N, C).
    Raises: ValueError in fit without a head, or when the percentile is not in (0, 99.99].
    Source: Sun & Li 2022, arXiv:2111.09805, eq. 3; differs: an order statistic, where its code interpolates.
    """

    weight: Array  # (C, D), zero where masked
    bias: Array  # (C,)
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    outputs: ClassVar[tuple[Signal, ...]] = ("logits",)
    passes: ClassVar[int] = 1

    @classmethod
    def fit(cls, reference: Reference, *, percentile: float = 90.0) -> Self:
        between("dice", "percentile", percentile, 0.0, 99.99)
        weight, bias = reference.head("dice")

        def part(batch: Batch) -> Sums:
            h = batch.signals["features"].astype(np.float64)
            return Sums(len(h), {"features": h.sum(axis=0)})

        contributions = weight * reference.reduce(part, "features").mean("features")
        rank = max(1, int(np.ceil(percentile / 100 * contributions.size)))
        floor = np.partition(contributions.ravel(), rank - 1)[rank - 1]
        return cls(_f32(np.where(contributions > floor, weight, 0.0)), _f32(bias))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> Signals[T]:
        return {**signals, "logits": xp.linear(signals["features"], self.weight, self.bias)}


@dataclass(frozen=True, eq=False)
class T2FNorm:
    """Logits W h / t + b of features as they are, for a model trained on unit features over the temperature t.

    Shapes: features (N, D) -> logits (N, C).
    Raises: ValueError in fit without a head, or when the temperature is not above 0.
    Source: Regmi et al. 2024, CVPR workshops, "T2FNorm: Train-time Feature Normalization for OOD Detection": training
    normalises the features, scoring does not. On a model trained otherwise this is only a rescaled head.
    """

    weight: Array  # (C, D)
    bias: Array  # (C,)
    temperature: float
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    outputs: ClassVar[tuple[Signal, ...]] = ("logits",)
    passes: ClassVar[int] = 0

    @classmethod
    def fit(cls, reference: Reference, *, temperature: float = 0.1) -> Self:
        between("t2fnorm", "temperature", temperature, 0.0, 1e6)
        weight, bias = reference.head("t2fnorm")
        return cls(_f32(weight), _f32(bias), float(temperature))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> Signals[T]:
        scaled = xp.linear(signals["features"], self.weight, self.bias, scale=1.0 / self.temperature)
        return {**signals, "logits": scaled}
