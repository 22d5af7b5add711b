"""Calibration tables, one for every row or one per slice, and the thresholds promised from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from demur.detectors.promises import conditional, order
from demur.detectors.promises.promise import CalibrationRefused, Level, RefuseGoodAtMost
from demur.detectors.promises.wording import percent, percent_up

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from demur.detectors.promises.neyman_pearson import Power
    from demur.detectors.promises.sample import Slices


@dataclass(frozen=True, eq=False)
class Table:
    """Sorted float32 scores of calibration units; `inflation` divides delta in its confidence statements."""

    scores: NDArray[np.float32]
    inflation: float = 1.0

    @property
    def n(self) -> int:
        return self.scores.size

    def rank(self, alpha: Level, promise: RefuseGoodAtMost) -> int:
        """The rank of the promised threshold; n + 1 when the table is too small."""
        average = order.marginal_rank(self.n, alpha)
        if promise.confidence is None:
            return average
        # A confidence below about one half would otherwise break the average that a policy's total is promised on.
        if promise.by in conditional.BOUNDS:
            return max(average, conditional.rank(self.n, float(alpha), order.delta(promise.confidence), promise.by))
        return max(average, order.tolerance_rank(self.n, alpha, promise.confidence, self.inflation))

    def units_needed(self, alpha: Level, promise: RefuseGoodAtMost) -> int:
        average = order.units_for_marginal(alpha)
        if promise.confidence is None:
            return average
        if promise.by in conditional.BOUNDS:
            return max(average, conditional.units_needed(float(alpha), order.delta(promise.confidence), promise.by))
        return max(average, order.units_for_tolerance(alpha, promise.confidence, self.inflation))

    def supported(self, promise: RefuseGoodAtMost) -> float | None:
        """The smallest alpha that this table carries; None when there is none below 1."""
        if self.n and promise.confidence is not None and promise.by in conditional.BOUNDS:
            least = conditional.smallest(self.n, order.delta(promise.confidence), promise.by)
        else:
            least = order.supported_level(self.n, promise.confidence, self.inflation) or 1.0
        return least * (1 + 1e-9) if least < 1 else None


@dataclass(frozen=True, eq=False)
class Thresholds:
    """Thresholds (1,), or one a slice, float32, the tables they are order statistics of, their ranks, and which slices use the pooled table.

    `compared` are the columns that one was chosen from, with their powers.
    """

    values: NDArray[np.float32]
    pooled: NDArray[np.bool_]
    tables: tuple[Table, ...]
    ranks: tuple[int, ...]
    compared: tuple[Power, ...] = ()

    def bound(self, confidence: float) -> float:
        """The largest tolerance bound of a slice with its own table, for each of `compared`; in (0, 1]."""
        own = [i for i in range(len(self.tables)) if not self.pooled[i]] or [0]
        ways = len(self.compared) or 1
        return max(
            order.tolerance_bound(self.tables[i].n, self.ranks[i], confidence, ways * self.tables[i].inflation)
            for i in own
        )

    @property
    def tied(self) -> bool:
        """Whether several calibration units sit exactly at a threshold."""
        return any(np.count_nonzero(t.scores == v) > 1 for t, v in zip(self.tables, self.values, strict=True))

    def refuses(self, scores: NDArray[np.float32], slices: NDArray[np.int64] | None) -> NDArray[np.bool_]:
        """(N,) scores -> (N,) bool: score > threshold of the row's slice."""
        return scores > (self.values[0] if slices is None else self.values[slices])


def whole(table: Table, promise: RefuseGoodAtMost, alpha: Level, unit: str) -> Thresholds:
    """One threshold for all units. Raises: CalibrationRefused with the units needed and the level that would work."""
    rank = table.rank(alpha, promise)
    if rank > table.n:
        raise too_few(table, promise, alpha, f"calibration {unit}")
    return Thresholds(table.scores[rank - 1 : rank].copy(), np.zeros(1, dtype=np.bool_), (table,), (rank,))


def by_slice(
    scores: NDArray[np.float32],
    place: NDArray[np.int64],
    slices: Slices,
    promise: RefuseGoodAtMost,
    alpha: Level,
    *,
    refuse_small: bool,
) -> Thresholds:
    """One threshold per slice, of rows at `place` (n,); a slice too small for the promise takes the pooled table's and is marked.

    With `refuse_small` rows of other slices are UNAVAILABLE, and the rule says nothing of them: their threshold is infinite.
    Raises: CalibrationRefused when even the pooled table is too small, or for any small slice of calibration rows when
    `refuse_small`.
    """
    pool = Table(np.sort(scores))
    shared = whole(pool, promise, alpha, "rows")
    own = [Table(np.sort(scores[place == c])) for c in range(slices.count)]
    small = [t.rank(alpha, promise) > t.n for t in own]
    if refuse_small and any(small[: len(slices.labels)]):
        c = small.index(True)
        raise too_few(own[c], promise, alpha, f"calibration rows of {slices.noun} {slices.labels[c]}")
    tables = tuple(pool if s else t for t, s in zip(own, small, strict=True))
    ranks = tuple(shared.ranks[0] if s else t.rank(alpha, promise) for t, s in zip(own, small, strict=True))
    values = np.array([t.scores[r - 1] for t, r in zip(tables, ranks, strict=True)], dtype=np.float32)
    if refuse_small and slices.others:
        values[-1] = np.inf
    return Thresholds(values, np.array(small, dtype=np.bool_), tables, ranks)


def too_few(table: Table, promise: RefuseGoodAtMost, alpha: Level, what: str) -> CalibrationRefused:
    needed = table.units_needed(alpha, promise)
    supported = table.supported(promise)
    confident = "" if promise.confidence is None else f" with {percent(promise.confidence, places=0)} confidence"
    works = f"; {percent_up(supported)} would work with {table.n}" if supported is not None else ""
    by = "" if promise.by == "split" else f" by {promise.by}"
    return CalibrationRefused(
        f"refuse_good_at_most {percent(alpha)}{confident}{by} needs at least {needed} {what}, got {table.n}{works}",
        rows_needed=needed,
        supported=supported,
        rows=table.n,
    )
