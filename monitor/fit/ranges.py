"""What values each signal had over the calibration rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from demur.monitor.fit.columns import float32
from demur.monitor.fit.table import SignalsTable

SAMPLE_VALUES = 4_000_000
PERCENTILES = (0.1, 99.9)


@dataclass(frozen=True, slots=True)
class SignalRange:
    """Smallest and largest value of one signal, and its 0.1 and 99.9 percentiles; NaN when no value is finite."""

    minimum: float
    maximum: float
    low: float
    high: float


def signal_ranges(table: SignalsTable) -> dict[str, SignalRange]:
    """The range of each signal over its finite values, all columns together.

    Extremes are exact; percentiles are exact up to 4 million values, above that over evenly spaced rows.
    """
    return {name: _range(table, name) for name in table.signals}


def _range(table: SignalsTable, name: str) -> SignalRange:
    minimum, maximum = np.inf, -np.inf
    for batch in table.only(name).batches():
        values = batch.signals[name]
        finite = np.isfinite(values)
        minimum = min(minimum, float(values.min(where=finite, initial=np.inf)))
        maximum = max(maximum, float(values.max(where=finite, initial=-np.inf)))
    if minimum > maximum:
        return SignalRange(np.nan, np.nan, np.nan, np.nan)
    rows = max(1, SAMPLE_VALUES // table.widths[name])
    step = -(-len(table) // rows)
    sample = float32(table.signals[name][::step])
    sample = sample[np.isfinite(sample)]
    low, high = np.percentile(sample, PERCENTILES) if len(sample) else (minimum, maximum)
    return SignalRange(minimum, maximum, float(low), float(high))
