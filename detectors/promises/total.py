"""What the whole policy refuses of good units: estimated, and promised where the policy says so."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from demur.detectors.promises import binomial, refusal, survival
from demur.detectors.promises.neyman_pearson import power_level
from demur.detectors.promises.promise import RefuseGoodAtMost
from demur.detectors.promises.statement import BUNDLE_CONFIDENCE
from demur.detectors.promises.wording import listed, percent, percent_down, percent_up

if TYPE_CHECKING:
    from collections.abc import Mapping
    from fractions import Fraction

    from demur.detectors.policy import Unit
    from demur.detectors.promises.promise import Good, Level
    from demur.detectors.promises.sample import CalibrationSample
    from demur.detectors.promises.survival import Fitted


@dataclass(frozen=True)
class TotalShare:
    """The share of good units that the whole policy refuses: estimated, and promised when the policy says so.

    `refused` of `n` calibration units were refused; `low` and `high` are the exact (Clopper-Pearson) 95 % interval, of a column
    chosen among several good for each of them, and None where the same rows chose a column by early stopping, of which no
    theorem bounds what this bundle refuses.
    `shares` are the refusal rules' parts of alpha, by rule name; `promised` is the policy's total, or None.
    """

    refused: int
    n: int
    low: float | None
    high: float | None
    promised: Level | None
    shares: tuple[tuple[str, Level], ...]
    good: Good = "id"

    @property
    def text(self) -> str:
        share = self.refused / self.n if self.n else 0.0
        estimate = f"The policy's total share of good inputs{self._which()} refused is estimated at {100 * share:.1f} % ({self._within()})"
        parts = listed([f"{name} {percent(level)}" for name, level in self.shares])
        if self.promised is None:
            return f"{estimate}, not promised."
        return (
            f"{estimate}; its refusal rules together are promised at most {percent(self.promised)} "
            f"on average over calibration draws, in shares: {parts}."
        )

    def _within(self) -> str:
        if self.low is None or self.high is None:
            return f"n = {self.n}, no interval because the same rows choose a column"
        return f"{percent(BUNDLE_CONFIDENCE, 0)} interval {percent_down(self.low)} to {percent_up(self.high)}, n = {self.n}"

    def _which(self) -> str:
        return "" if self.good == "id" else " (those the model answers correctly)"


def estimated(
    fitted: Fitted, sample: CalibrationSample, promised: Level | None, alphas: Mapping[str, Fraction], seed: int
) -> TotalShare:
    """What the calibrated rules refuse of the good calibration units, one row drawn from each group."""
    unit: Unit = "group" if all(spec.unit == "group" for spec, _ in fitted) else "row"
    refusing = [spec.promise for spec, _ in fitted if isinstance(spec.promise, RefuseGoodAtMost)]
    good: Good = "correct" if {p.good for p in refusing} == {"correct"} else "id"
    units = survival.independent(sample, unit, np.ones(sample.units, dtype=np.bool_), seed)
    kept = (refusal.good_groups if unit == "group" else refusal.good_rows)(sample, good)
    units = units[kept[units]]
    count = int(np.count_nonzero(survival.refused(fitted, sample, unit)[units]))
    ways = math.prod(len(thresholds.compared) or 1 for _, thresholds in fitted)
    stopped = any(p.by == "early_stopping" for p in refusing)
    low, high = (None, None) if stopped else binomial.interval(count, units.size, power_level(ways, BUNDLE_CONFIDENCE))
    return TotalShare(count, units.size, low, high, promised, tuple(alphas.items()), good)
