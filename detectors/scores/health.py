"""Health of a network's activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from demur.detectors.numpy_ops import TINY
from demur.detectors.score import EXACT_MERGE, Reference, Scaling
from demur.detectors.tensor import Ops, Signal, Signals, T


@dataclass(frozen=True, eq=False)
class ActivationKurtosis:
    """Excess kurtosis of a row's activations: how far a few outlier features carry everything.

    E[x^4] / s^4 - 3, with the fourth moment about zero and the unbiased variance s^2. Taken after scaling by max|x|; a
    constant row has no kurtosis and is not finite.
    Shapes: features (N, D) -> (N,). Range: [-3, inf), dimensionless. Higher is less trustworthy.
    Raises: ValueError in fit when the features have fewer than 2 columns.
    Source: Park et al. 2025, arXiv:2506.19697, as its code measures it; differs: not cut off at 0.
    """

    width: int  # D
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Park et al. 2025, arXiv:2506.19697 (excess kurtosis of activations)"

    @classmethod
    def fit(cls, reference: Reference) -> Self:
        first = next(reference.batches("features", size=1))
        width = first.signals["features"].shape[1]
        if width < 2:
            raise ValueError(f"activation_kurtosis: expected at least 2 features, got {width}")
        return cls(width)

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        x = signals["features"]
        y = x / xp.maximum(xp.max(xp.abs(x), keepdims=True), TINY)
        squares = y * y
        from_mean = y - xp.mean(y, keepdims=True)
        variance = xp.sum(from_mean * from_mean) / (self.width - 1.0)
        return xp.mean(squares * squares) / (variance * variance) - 3.0  # type: ignore[no-any-return]
