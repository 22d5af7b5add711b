"""Calibrated intervals of a regression, by the quantile that a bundle's `interval_width` holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from demur.detectors.scores.regression import BY, IntervalWidth
from demur.monitor.bundle import Bundle
from demur.monitor.errors import ConfigurationError
from demur.monitor.fit.scores import restore_scores

Float64 = NDArray[np.float64]


class Intervals(NamedTuple):
    """low, high (N,) in the target's unit, NaN where a row's signals are not usable; what they promise, in words."""

    low: Float64
    high: Float64
    coverage: float
    statement: str

    def held(self, target: NDArray[Any]) -> tuple[int, int]:
        """How many usable rows hold their target (N,), and how many usable rows there are."""
        usable = np.isfinite(self.low) & np.isfinite(self.high)
        inside = usable & (target >= self.low) & (target <= self.high)
        return int(inside.sum()), int(usable.sum())


def intervals(bundle: Bundle, signals: Mapping[str, NDArray[Any]], *, score: str = "") -> Intervals:
    """The interval of each row from `estimate` and `spread`, or `low` and `high`, (N, 1) each.

    `score` names one of several `interval_width` scores of the bundle.
    Raises: ConfigurationError when the bundle has none or several, or a signal is missing.
    """
    held: dict[str, IntervalWidth] = restore_scores(bundle, "interval_width")
    if score not in held and (score or len(held) != 1):
        known = ", ".join(held) or "none"
        raise ConfigurationError(f"expected one interval_width score, the bundle has {known}; name one of them")
    found = held[score] if score else next(iter(held.values()))
    missing = [name for name in BY[found.by] if name not in signals]
    if missing:
        raise ConfigurationError(f"expected the signals {', '.join(BY[found.by])}, missing: {', '.join(missing)}")
    low, high = found.interval(signals)
    return Intervals(low, high, found.coverage, _statement(found))


def _statement(score: IntervalWidth) -> str:
    return (
        f"For rows exchangeable with the reference rows, an interval holds its target with probability at least "
        f"{score.coverage * 100:g} %, on average over reference draws (n = {score.rows}); over all rows, not among those that a policy accepts."
    )
