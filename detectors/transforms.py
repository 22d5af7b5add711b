"""Transforms: signals reshaped before a score sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from demur.detectors.accumulate import order_statistic
from demur.detectors.hyper import between
from demur.detectors.numpy_ops import Array
from demur.detectors.score import Reference
from demur.detectors.tensor import Ops, Signal, Signals, T


@dataclass(frozen=True, eq=False)
class ReAct:
    """Features cut off at a high quantile of all reference activations.

    Shapes: features (N, D) -> features (N, D).
    Source: Sun et al. 2021, arXiv:2111.12797, eq. 2; the quantile is the ceil(q n)-th smallest activation, exactly.
    """

    clip: Array  # (1,)
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    outputs: ClassVar[tuple[Signal, ...]] = ("features",)

    @classmethod
    def fit(cls, reference: Reference, *, quantile: float = 0.9) -> Self:
        between("react", "quantile", quantile, 0.0, 1.0)
        return cls(np.array([order_statistic(reference, "features", quantile)], np.float32))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> Signals[T]:
        return {**signals, "features": xp.minimum(signals["features"], self.clip)}


@dataclass(frozen=True, eq=False)
class LinearHead:
    """Logits recomputed from the features by the model's last layer.

    Shapes: features (N, D) -> logits (N, C).
    """

    weight: Array  # (C, D)
    bias: Array  # (C,)
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    outputs: ClassVar[tuple[Signal, ...]] = ("logits",)

    @classmethod
    def fit(cls, reference: Reference) -> Self:
        weight, bias = reference.head("linear_head")
        return cls(np.ascontiguousarray(weight, np.float32), np.ascontiguousarray(bias, np.float32))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> Signals[T]:
        return {**signals, "logits": xp.linear(signals["features"], self.weight, self.bias)}


@dataclass(frozen=True, eq=False)
class Select:
    """Another signal in the place that a score reads: an inner layer, a table's row, a projection as `features`.

    Shapes: signal (N, K) -> name (N, K).
    Raises: ValueError in fit when the reference has no such signal.
    """

    signal: str
    name: str

    @property
    def inputs(self) -> tuple[Signal, ...]:
        return (self.signal,)

    @property
    def outputs(self) -> tuple[Signal, ...]:
        return (self.name,)

    @classmethod
    def fit(cls, reference: Reference, *, signal: str, name: str = "features") -> Self:
        next(reference.batches(str(signal), size=1))
        return cls(str(signal), str(name))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> Signals[T]:  # noqa: ARG002 - nothing to compute
        return {**signals, self.name: signals[self.signal]}


TRANSFORMS: dict[str, type[Any]] = {"react": ReAct, "linear_head": LinearHead, "select": Select}
