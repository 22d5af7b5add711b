"""Features cut to the range that reference activations have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from demur.detectors.accumulate import order_statistic
from demur.detectors.hyper import between, one_of
from demur.detectors.numpy_ops import Array
from demur.detectors.score import Reference
from demur.detectors.tensor import Ops, Signal, Signals, T
from demur.detectors.transforms.quantile import order_statistics


@dataclass(frozen=True, eq=False)
class ReAct:
    """Features cut off at a high quantile of all reference activations.

    Shapes: features (N, D) -> features (N, D).
    Raises: ValueError in fit when the quantile is not in (0, 1].
    Source: Sun et al. 2021, arXiv:2111.12797, eq. 2; the quantile is the ceil(q n)-th smallest activation, exactly.
    """

    clip: Array  # (1,)
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    outputs: ClassVar[tuple[Signal, ...]] = ("features",)
    passes: ClassVar[int] = 2

    @classmethod
    def fit(cls, reference: Reference, *, quantile: float = 0.9) -> Self:
        between("react", "quantile", quantile, 0.0, 1.0)
        return cls(np.array([order_statistic(reference, "features", quantile)], np.float32))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> Signals[T]:
        return {**signals, "features": xp.minimum(signals["features"], self.clip)}


@dataclass(frozen=True, eq=False)
class VRA:
    """Features h with low values zeroed and high values cut: 0 where h < a, h where a <= h <= b, b where h > b.

    a and b are the ceil(q n)-th smallest reference activations for q_low and q_high: of all activations (`per`: all) or
    of each feature's own (dimension).
    Shapes: features (N, D) -> features (N, D).
    Raises: ValueError in fit when not 0 < q_low < q_high <= 1, or for an unknown `per`.
    Source: Xu et al. 2023, NeurIPS, "VRA: Variational Rectified Activation for Out-of-distribution Detection"; the
    defaults are its CIFAR-10 quantiles.
    """

    low: Array  # (1,) or (D,)
    high: Array  # (1,) or (D,)
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    outputs: ClassVar[tuple[Signal, ...]] = ("features",)

    @property
    def passes(self) -> int:
        return 4 if len(self.low) == 1 else 8

    @classmethod
    def fit(cls, reference: Reference, *, q_low: float = 0.6, q_high: float = 0.9, per: str = "all") -> Self:
        return cls(*_range(reference, "vra", q_low, q_high, per))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> Signals[T]:
        h = signals["features"]
        return {**signals, "features": xp.where(_below(xp, h, self.low), 0.0, xp.minimum(h, self.high))}


@dataclass(frozen=True, eq=False)
class VRAPlus:
    """VRA with the middle raised: 0 where h < a, h + gamma where a <= h <= b, b where h > b.

    The order is that of the authors' code, whose plateau b lies below the middle's largest value, b + gamma.
    Shapes: features (N, D) -> features (N, D).
    Raises: ValueError in fit as `VRA`, or when gamma is not above 0.
    Source: Xu et al. 2023, NeurIPS, "VRA", VRA+ as in its code; thresholds a and b as in `VRA`.
    """

    low: Array  # (1,) or (D,)
    high: Array  # (1,) or (D,)
    gamma: float
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    outputs: ClassVar[tuple[Signal, ...]] = ("features",)

    @property
    def passes(self) -> int:
        return 4 if len(self.low) == 1 else 8

    @classmethod
    def fit(
        cls, reference: Reference, *, q_low: float = 0.6, q_high: float = 0.95, gamma: float = 0.3, per: str = "all"
    ) -> Self:
        between("vra_plus", "gamma", gamma, 0.0, 1e6)
        return cls(*_range(reference, "vra_plus", q_low, q_high, per), float(gamma))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> Signals[T]:
        h = signals["features"]
        raised = xp.where(xp.greater(h, self.high), self.high, h + self.gamma)
        return {**signals, "features": xp.where(_below(xp, h, self.low), 0.0, raised)}


@dataclass(frozen=True, eq=False)
class VRAOpenOODClip:
    """Features clipped to [a, b]: what OpenOOD calls VRA. Low activations rise to a, where VRA's fall to 0.

    a and b are the ceil(q n)-th smallest of all reference activations for q_low and q_high.
    Shapes: features (N, D) -> features (N, D).
    Raises: ValueError in fit when not 0 < q_low < q_high <= 1.
    Source: OpenOOD v1.5, vra_postprocessor.py; differs: order statistics, where it interpolates percentiles.
    """

    low: Array  # (1,)
    high: Array  # (1,)
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    outputs: ClassVar[tuple[Signal, ...]] = ("features",)
    passes: ClassVar[int] = 4

    @classmethod
    def fit(cls, reference: Reference, *, q_low: float = 0.1, q_high: float = 0.9) -> Self:
        return cls(*_range(reference, "vra_openood_clip", q_low, q_high, "all"))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> Signals[T]:
        return {**signals, "features": xp.maximum(xp.minimum(signals["features"], self.high), self.low)}


def _below(xp: Ops[T], h: T, low: Array) -> T:
    """Where an activation lies under its threshold."""
    return xp.greater(low, h)  # type: ignore[arg-type] # lifted with the rest of the score


def _range(reference: Reference, transform: str, q_low: float, q_high: float, per: str) -> tuple[Array, Array]:
    between(transform, "q_high", q_high, 0.0, 1.0)
    if between(transform, "q_low", q_low, 0.0, 1.0) >= q_high:
        raise ValueError(f"{transform}: q_low must be below q_high, got {q_low!r} and {q_high!r}")
    if one_of(transform, "per", per, ("all", "dimension")) == "dimension":
        return order_statistics(reference, "features", q_low), order_statistics(reference, "features", q_high)
    low, high = (np.array([order_statistic(reference, "features", q)], np.float32) for q in (q_low, q_high))
    return low, high
