"""Parts of trained networks, as fitted scores hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from demur.detectors.numpy_ops import Array
from demur.detectors.tensor import Ops, T

Float64 = NDArray[np.float64]
Layer = tuple[Float64, Float64]  # weight (out, in), bias (out,)


@dataclass(frozen=True, eq=False)
class Dense:
    """x W' + b: (N, in) -> (N, out)."""

    weight: Array  # (out, in)
    bias: Array  # (out,)

    @classmethod
    def of(cls, layer: Layer) -> Self:
        weight, bias = (np.ascontiguousarray(part, np.float32) for part in layer)
        return cls(weight, bias)

    def __call__(self, xp: Ops[T], x: T) -> T:
        return xp.linear(x, self.weight, self.bias)


@dataclass(frozen=True, eq=False)
class Coupling:
    """x -> x exp(s) + t and log|det| = sum s, with a = relu(inner x), s = bound tanh(scale a), t = shift a.

    The columns of `inner` that read moved entries are 0, and so are the rows of `scale` and `shift` of entries that stay.
    """

    inner: Dense
    scale: Dense
    shift: Dense
    bound: float

    def __call__(self, xp: Ops[T], x: T) -> tuple[T, T]:
        a = xp.maximum(self.inner(xp, x), 0.0)
        s = xp.tanh(self.scale(xp, a)) * self.bound
        return x * xp.exp(s) + self.shift(xp, a), xp.sum(s)


@dataclass(frozen=True, eq=False)
class MeanShift:
    """`times` over: the mean of the k bank rows nearest in euclidean distance, (N, D) -> (N, D)."""

    bank: Array  # (M, D)
    bank_sq: Array  # (M,)
    times: int
    k: int

    @classmethod
    def of(cls, rows: Float64, times: int, k: int) -> Self:
        stored = np.ascontiguousarray(rows, np.float32)
        return cls(stored, np.sum(stored.astype(np.float64) ** 2, axis=1).astype(np.float32), times, k)

    def __call__(self, xp: Ops[T], x: T) -> T:
        for _ in range(self.times):
            _, places = xp.bottom(xp.linear(x, self.bank, self.bank_sq, scale=-2.0), self.k)
            x = xp.mean(xp.swap(xp.take(self.bank, places)))
        return x


def rectified(xp: Ops[T], layers: tuple[Dense, ...], x: T) -> T:
    """The layers one after another, rectified between them."""
    for place, layer in enumerate(layers):
        x = layer(xp, xp.maximum(x, 0.0) if place else x)
    return x


def scaling(rows: Float64) -> tuple[Float64, Float64]:
    """Mean (D,) and standard deviation (D,) of rows, divided by n; 1 for a column that does not vary."""
    spread = rows.std(axis=0)
    return rows.mean(axis=0), np.where(spread > 1e-12 * np.maximum(np.abs(rows).max(axis=0), 1e-300), spread, 1.0)


PARTS: dict[str, type[Any]] = {"dense": Dense, "coupling": Coupling, "mean_shift": MeanShift}
