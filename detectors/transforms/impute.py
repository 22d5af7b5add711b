"""Missing cells of a table: filled for the scores, or told by a mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from demur.detectors.accumulate import Counts
from demur.detectors.evaluate import present
from demur.detectors.numpy_ops import Array
from demur.detectors.score import Batch, Reference
from demur.detectors.tensor import Ops, Signal, Signals, T, missing_of
from demur.detectors.transforms.quantile import ranked_values
from demur.detectors.transforms.select import Placed, Select


@dataclass(frozen=True, eq=False)
class Impute(Placed):
    """A NaN cell becomes the median of the present reference cells of its column.

    The median of m present cells is the ceil(m / 2)-th smallest, exactly: of an even number, the lower of the middle two.
    Infinities are no missing cells: their rows stay INVALID.
    Shapes: signal (N, D) -> name (N, D).
    Raises: ValueError in fit when a column is missing in every reference row.
    Source: median imputation; Little & Rubin 2002, Statistical Analysis with Missing Data, section 4.2.
    """

    median: Array  # (D,)
    passes: ClassVar[int] = 5

    @property
    def absent(self) -> tuple[Signal, ...]:
        return (self.signal,)

    @classmethod
    def fit(cls, reference: Reference, *, signal: str, name: str = "features") -> Self:
        signal = str(signal)

        def counted(batch: Batch) -> Counts:
            return Counts((~np.isnan(batch.signals[signal])).sum(axis=0))

        held = reference.reduce(counted, signal).of
        empty = np.flatnonzero(held == 0)
        if len(empty):
            raise ValueError(
                f"impute: columns {empty.tolist()} of {signal} are missing in every reference row; leave them out"
            )
        return cls(signal, str(name), ranked_values(reference, signal, (held + 1) // 2))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> Signals[T]:
        x = signals[self.signal]
        return {**signals, self.name: xp.where(present(xp, x), x, self.median)}


@dataclass(frozen=True, eq=False)
class Missing(Select):
    """Which cells are NaN: 1 where a cell is missing, else 0.

    Shapes: signal (N, D) -> name_missing (N, D).
    Source: missing indicators; Little & Rubin 2002, Statistical Analysis with Missing Data, section 1.2.
    """

    @property
    def absent(self) -> tuple[Signal, ...]:
        return (self.signal,)

    @property
    def outputs(self) -> tuple[Signal, ...]:
        return (missing_of(self.name),)

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> Signals[T]:
        return {**signals, missing_of(self.name): xp.where(present(xp, signals[self.signal]), 0.0, 1.0)}
