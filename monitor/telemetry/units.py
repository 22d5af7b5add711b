"""Counts for one kind of unit (rows, groups or stream steps) of one monitor: binned once a batch, no object per value."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from demur.detectors.reason import Reason
from demur.monitor.telemetry.names import OTHER, P_BOUNDS, SCORE_BOUNDS
from demur.monitor.verdicts import BROKEN, Action, PolicyView, Verdicts

COLUMN_LIMIT = 64
# Values judged one by one in Python up to this many, in NumPy above: the lines cross near here (measured).
SMALL = 96
MARGINAL_TOLERANCE = 1e-5
ACTIONS = tuple(action.name.lower() for action in Action)
GRAVEST = (Reason.UNAVAILABLE, Reason.INVALID, *(r for r in Reason if not r & BROKEN))

# Verdicts are float32: a bound must be the float32 it is compared with, or p = 0.05 would land above 0.05.
_SCORES, _P = np.array(SCORE_BOUNDS, np.float32), np.array(P_BOUNDS, np.float32)
_SCORE_LIST, _P_LIST = _SCORES.tolist(), _P.tolist()


def _zeros(bounds: tuple[float, ...]) -> list[int]:
    return [0] * (len(bounds) + 2)


@dataclass(slots=True)
class ColumnCounts:
    """Bins of one score column; the last bin of each list counts what is not finite."""

    scores: list[int] = field(default_factory=lambda: _zeros(SCORE_BOUNDS))
    p_values: list[int] = field(default_factory=lambda: _zeros(P_BOUNDS))
    p_total: float = 0.0


@dataclass(slots=True)
class UnitCounts:
    """Everything counted for one (monitor, unit). Guarded by `lock`; readers take it too."""

    lock: Lock = field(default_factory=Lock)
    bits: list[int] = field(default_factory=lambda: [0] * 256)
    actions: list[int] = field(default_factory=lambda: [0] * (len(Action) + 1))
    refused: int = 0
    marginal: int = 0
    promised: float = 0.0
    columns: dict[str, ColumnCounts] = field(default_factory=dict)

    def column(self, name: str) -> ColumnCounts:
        """The bins of a column, one shared set for those beyond the limit."""
        with self.lock:
            known = name in self.columns or len(self.columns) < COLUMN_LIMIT
            return self.columns.setdefault(name if known else OTHER, ColumnCounts())

    def verdicts(self) -> Iterator[tuple[str, str, int]]:
        """(decision, gravest reason, count)."""
        totals: dict[str, int] = {}
        for bits, count in enumerate(self.bits):
            if count:
                name = next((r.name.lower() for r in GRAVEST if r.name and bits & r), "none")
                totals[name] = totals.get(name, 0) + count
        for name, count in totals.items():
            yield ("accept" if name == "none" else "abstain"), name, count

    def reasons(self) -> Iterator[tuple[str, int]]:
        for reason in Reason:
            count = sum(n for bits, n in enumerate(self.bits) if bits & reason)
            if count:
                yield str(reason.name).lower(), count

    def judged(self) -> int:
        """Units that could be assessed: neither INVALID nor UNAVAILABLE."""
        return sum(count for bits, count in enumerate(self.bits) if not bits & BROKEN)


class UnitPlan:
    """How verdicts of one policy and one unit are counted; made once for a policy."""

    def __init__(self, counts: UnitCounts, policy: PolicyView, columns: tuple[str, ...], unit: str) -> None:
        rules = [(i, r) for i, r in enumerate(policy.rules) if r.unit == unit]
        promised = [(i, r.level) for i, r in rules if r.level is not None]
        self.counts = counts
        self.cells = [counts.column(name) for name in columns]
        self.refusal_mask = sum(1 << i for i, _ in promised)
        with counts.lock:
            counts.promised = float(sum(level for _, level in promised))
        self.edges = [
            (columns.index(r.column), t, abs(t) * MARGINAL_TOLERANCE)
            for _, r in rules
            if r.column in columns and r.threshold.size == 1 and np.isfinite(t := float(r.threshold[0]))
        ]
        self._places = np.array([place for place, _, _ in self.edges], np.intp)
        self._thresholds = np.array([t for _, t, _ in self.edges])

    def add(self, verdicts: Verdicts) -> None:
        """Count a batch of verdicts."""
        if verdicts.scores.size <= SMALL and len(verdicts.accept) <= SMALL:
            self._add_few(verdicts)
        else:
            self._add_many(verdicts)

    def _add_few(self, verdicts: Verdicts) -> None:
        bits, scores, p_values = verdicts.reason_bits.tolist(), verdicts.scores.tolist(), verdicts.p_values.tolist()
        hits = verdicts.rule_hits.tolist()
        actions = verdicts.actions.tolist() if verdicts.actions is not None else None
        counts, cells, mask, edges = self.counts, self.cells, self.refusal_mask, self.edges
        with counts.lock:
            for row, row_bits in enumerate(bits):
                counts.bits[row_bits if 0 <= row_bits < 256 else 255] += 1
                counts.actions[actions[row] if actions else 0] += 1
                if hits[row] & mask and not row_bits & BROKEN:
                    counts.refused += 1
                row_scores = scores[row]
                for cell, score, p in zip(cells, row_scores, p_values[row], strict=True):
                    # x - x is 0 exactly for finite x; half the price of math.isfinite
                    cell.scores[bisect_left(_SCORE_LIST, score) if score - score == 0 else -1] += 1
                    if p - p == 0:
                        cell.p_values[bisect_left(_P_LIST, p)] += 1
                        cell.p_total += p
                for place, threshold, tolerance in edges:
                    if abs(row_scores[place] - threshold) <= tolerance:
                        counts.marginal += 1
                        break

    def _add_many(self, verdicts: Verdicts) -> None:
        bits = np.clip(verdicts.reason_bits, 0, 255)
        bit_counts = np.bincount(bits, minlength=256).tolist()
        actions = verdicts.actions
        done = [len(bits)] if actions is None else np.bincount(np.minimum(actions, len(Action))).tolist()
        refused = int(np.count_nonzero((verdicts.rule_hits & self.refusal_mask != 0) & (bits & BROKEN == 0)))
        marginal = self._marginal(verdicts.scores)
        scores, p_values = _binned(verdicts.scores, _SCORES), _binned(verdicts.p_values, _P)
        finite_p = np.where(np.isfinite(verdicts.p_values), verdicts.p_values, np.float32(0))
        totals = finite_p.sum(axis=0, dtype=np.float64).tolist()
        counts = self.counts
        with counts.lock:
            _add(counts.bits, bit_counts)
            _add(counts.actions, done)
            counts.refused += refused
            counts.marginal += marginal
            for cell, score_bins, p_bins, total in zip(self.cells, scores, p_values, totals, strict=True):
                _add(cell.scores, score_bins)
                _add(cell.p_values, p_bins)
                cell.p_total += total

    def _marginal(self, scores: NDArray[np.float32]) -> int:
        if not self.edges:
            return 0
        with np.errstate(invalid="ignore"):
            distance = np.abs(scores[:, self._places].astype(np.float64) - self._thresholds)
        return int(np.count_nonzero((distance <= np.abs(self._thresholds) * MARGINAL_TOLERANCE).any(axis=1)))


def _binned(values: NDArray[np.float32], bounds: NDArray[np.float32]) -> list[list[int]]:
    width, columns = len(bounds) + 2, values.shape[1]
    place = np.where(np.isfinite(values), np.searchsorted(bounds, values), width - 1)
    flat = (place + np.arange(columns) * width).ravel()
    return list(np.bincount(flat, minlength=columns * width).reshape(columns, width).tolist())


def _add(into: list[int], counts: Iterable[int]) -> None:
    for i, count in enumerate(counts):
        if count:
            into[i] += count
