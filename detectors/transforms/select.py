"""Which signal a score reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from demur.detectors.score import Reference
from demur.detectors.tensor import Ops, Signal, Signals, T


@dataclass(frozen=True, eq=False)
class Placed:
    """Something of one signal, in the place that another name has. Shapes: signal (N, K) -> name (N, K)."""

    signal: str
    name: str

    @property
    def inputs(self) -> tuple[Signal, ...]:
        return (self.signal,)

    @property
    def outputs(self) -> tuple[Signal, ...]:
        return (self.name,)


@dataclass(frozen=True, eq=False)
class Select(Placed):
    """Another signal in the place that a score reads: an inner layer, a table's row, a projection as `features`.

    Shapes: signal (N, K) -> name (N, K).
    Raises: ValueError in fit when the reference has no such signal.
    """

    passes: ClassVar[int] = 0

    @classmethod
    def fit(cls, reference: Reference, *, signal: str, name: str = "features") -> Self:
        next(reference.batches(str(signal), size=1))
        return cls(str(signal), str(name))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> Signals[T]:  # noqa: ARG002 - nothing to compute
        return {**signals, self.name: signals[self.signal]}
