"""Missing cells of a table: filled for the scores, and told apart by a mask."""

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


@dataclass(frozen=True, eq=False)
class Impute:
    """A NaN cell becomes the median of the present reference cells of its column; a mask beside says which were missing.

    The median of m present cells is the ceil(m / 2)-th smallest, exactly: of an even number, the lower of the middle two.
    Infinities are no missing cells: their rows stay INVALID.
    Shapes: signal (N, D) -> name (N, D), name_missing (N, D) of 1 (missing) and 0.
    Raises: ValueError in fit when a column is missing in every reference row.
    Source: median imputation with missing indicators; Little & Rubin 2002, Statistical Analysis with Missing Data, section 4.2.
    """

    median: Array  # (D,)
    signal: str
    name: str
    passes: ClassVar[int] = 5

    @property
    def inputs(self) -> tuple[Signal, ...]:
        return (self.signal,)

    @property
    def outputs(self) -> tuple[Signal, ...]:
        return (self.name, missing_of(self.name))

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
        return cls(ranked_values(reference, signal, (held + 1) // 2), signal, str(name))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> Signals[T]:
        x = signals[self.signal]
        there = present(xp, x)
        filled = {self.name: xp.where(there, x, self.median), missing_of(self.name): xp.where(there, 0.0, 1.0)}
        return {**signals, **filled}
