"""A number with its uncertainty."""

from __future__ import annotations

import math
from dataclasses import dataclass

from demur.detectors.promises import binomial


@dataclass(frozen=True)
class Estimate:
    """A value, NaN where undefined, and its two-sided interval, None where none was computed."""

    value: float
    low: float | None = None
    high: float | None = None

    def __format__(self, spec: str) -> str:
        return "-" if math.isnan(self.value) else format(self.value, spec)


def exact_share(part: int, whole: int, confidence: float) -> Estimate:
    """A share of independent units with its Clopper-Pearson interval; undefined for no units."""
    if not whole:
        return Estimate(math.nan)
    return Estimate(part / whole, *binomial.interval(part, whole, confidence))
