"""Signals that are risks already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from demur.detectors.score import EXACT_MERGE, Reference, Scaling
from demur.detectors.tensor import Ops, Signal, Signals, T


@dataclass(frozen=True, eq=False)
class Given:
    """The largest entry of a signal that is a risk when it arrives: a residual, the peak of a map, a width.

    Shapes: signal (N, K) -> (N,). Range: the signal's, in its unit. Higher is less trustworthy: turn a confidence's sign
    before it becomes a signal.
    Raises: ValueError in fit when the reference has no such signal.
    Source: none; whoever computed the signal.
    """

    signal: str
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "a risk given as a signal"

    @property
    def inputs(self) -> tuple[Signal, ...]:
        return (self.signal,)

    @classmethod
    def fit(cls, reference: Reference, *, signal: str) -> Self:
        next(reference.batches(str(signal), size=1))
        return cls(str(signal))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        return xp.max(signals[self.signal])
