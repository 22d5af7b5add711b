"""One of several columns, chosen and calibrated on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from demur.detectors.numpy_ops import Array
from demur.detectors.score import EXACT_MERGE, Reference, Scaling
from demur.detectors.tensor import Ops, Signal, Signals, T

MOST_CELLS = 2**24  # of the tables, 64 MiB; a row is compared with one of them


@dataclass(frozen=True, eq=False)
class EarlyStopped:
    """How rare a row's score is among the calibration rows, at the column (checkpoint) that they and the row choose together.

    With losses s_t of columns t = 1..T and their sums S_t over the n calibration rows, a row chooses t* = argmin_t S_t + s_t(x),
    the first among equals, and its score is -(1 + #{i: s_i,t* >= s_t*(x)}): whole numbers whose ordinary p-value, against the
    table -(n + 1), ..., -2, is that of conformalised early stopping, exact although the calibration rows chose. They must be
    the rows that promises come from, each exchangeable with a row in service. The choice is compared in float32.
    Shapes: scores of the columns in `of`, (N,) each -> (N,). Range: -(n + 1) to -1. Higher is less trustworthy.
    Raises: ValueError in fit for under 2 distinct columns, calibration scores that are not finite, or more than 2^24 of them.
    Source: Liang, Zhou & Sesia 2023, arXiv:2301.11556 (CES for outlier detection).
    """

    of: tuple[str, ...]
    totals: Array
    tables: Array
    rows: int
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Liang, Zhou & Sesia 2023, arXiv:2301.11556"

    @property
    def inputs(self) -> tuple[Signal, ...]:
        return tuple(f"s:{name}" for name in self.of)

    @classmethod
    def fit(cls, reference: Reference, *, of: Sequence[str]) -> Self:
        """`reference` holds the calibration rows' scores of each column, as the compiled graph gave them."""
        names = tuple(map(str, of)) if isinstance(of, Sequence) and not isinstance(of, str) else ()
        if len(set(names)) < 2 or len(set(names)) < len(names):
            raise ValueError(f"early_stopped: `of` must list at least 2 different columns, got {of!r}")
        if reference.rows * len(names) > MOST_CELLS:
            raise ValueError(
                f"early_stopped: expected at most {MOST_CELLS // len(names)} calibration rows for {len(names)} columns, got "
                f"{reference.rows}; with so many, choose on one part of them and calibrate on the rest"
            )
        needs = tuple(f"s:{name}" for name in names)
        scores = np.concatenate([np.column_stack([b.signals[s] for s in needs]) for b in reference.batches(*needs)])
        if not np.isfinite(scores).all():
            row, column = np.argwhere(~np.isfinite(scores))[0]
            raise ValueError(
                f"early_stopped: {names[column]} of calibration row {row} is not finite; repair or remove such rows"
            )
        return cls(names, _above_least(scores), np.ascontiguousarray(np.sort(scores, axis=0).T), len(scores))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        losses = xp.concat([signals[name] for name in self.inputs])
        chosen = xp.argkth_smallest(losses + self.totals, 1)
        table = xp.one_part(xp.take(self.tables, chosen))
        below = xp.rank(xp.concat([xp.pick(losses, chosen)]), table)
        return xp.column(below) - float(self.rows + 1)  # type: ignore[no-any-return]

    def places(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of calibration rows (n, T), each one's place in the table -(n + 1), ..., -2 of this score's p-values: (n,).

        The row of highest score at the column that the calibration rows choose among themselves has -2; equal scores stand
        in the order of the rows. Only the table and an estimate of who is refused come from it.
        """
        order = np.argsort(-scores[:, int(np.argmin(self.totals))], kind="stable")
        places = np.empty(len(scores), np.float32)
        places[order] = -np.arange(2, len(scores) + 2, dtype=np.float32)
        return places


def _above_least(scores: NDArray[np.float32]) -> Array:
    """(T,) S_t above the least of them. Sorted float64 sums: the order of the rows changes no bit."""
    totals = np.sort(scores.astype(np.float64), axis=0).sum(axis=0)
    return np.asarray(totals - totals.min(), np.float32)
