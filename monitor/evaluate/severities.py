"""How each score follows the severity of what was done to the inputs, with intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from demur.monitor.evaluate.bootstrap import Resampler
from demur.monitor.evaluate.counts import Values
from demur.monitor.evaluate.estimate import Estimate
from demur.monitor.evaluate.grid import merged
from demur.monitor.evaluate.pool import Pool
from demur.monitor.evaluate.ranking import MOST_BINS
from demur.monitor.evaluate.severity import SeverityCounts, c_index, kendall_tau_b

BATCH = 64


@dataclass(frozen=True)
class Severity:
    """How one score follows severity over `levels`, on `units` units whose severity is known."""

    score: str
    levels: tuple[float, ...]
    units: int
    kendall_tau_b: Estimate
    c_index: Estimate


def severities_of(pool: Pool, column: int, resampler: Resampler | None) -> list[Severity]:
    """One record, or none when fewer than two levels are known. `resampler` is over the pool's usable units."""
    level = pool.severity[pool.usable]
    known = ~np.isnan(level)
    levels = np.unique(level[known])
    if len(levels) < 2:
        return []
    scores = pool.scores(column)
    counts = SeverityCounts.of(scores[known], level[known])
    exact = [float(metric(counts)) for metric in (kendall_tau_b, c_index)]
    values = [Estimate(value) for value in exact]
    if resampler is not None:
        values = [
            _with_interval(v, f, resampler) for v, f in zip(exact, _resampled(scores, level, resampler), strict=True)
        ]
    return [Severity(pool.columns[column], tuple(levels.tolist()), int(known.sum()), *values)]


def _resampled(scores: Values, level: Values, resampler: Resampler) -> list[Values]:
    """(1 + draws,) of both metrics: of the merged scores first, then of their resamples. Units of unknown severity count
    in no pair.
    """
    levels = np.unique(level[~np.isnan(level)])
    distinct, row = merged(scores, MOST_BINS)
    columns = len(levels) + 1
    cell = row * columns + np.where(np.isnan(level), len(levels), np.searchsorted(levels, level))
    size = len(distinct) * columns
    batches = [np.bincount(cell, minlength=size).astype(np.float64)[:, None], *resampler.counts(cell, size, BATCH)]
    found = [
        SeverityCounts(levels, np.reshape(batch, (len(distinct), columns, -1))[:, : len(levels)]) for batch in batches
    ]
    return [np.concatenate([metric(counts) for counts in found]) for metric in (kendall_tau_b, c_index)]


def _with_interval(value: float, found: Values, resampler: Resampler) -> Estimate:
    """The interval is moved by what merging did to the value itself."""
    limits = resampler.interval(found[1:] + (value - found[0]))
    return Estimate(value) if limits is None else Estimate(value, *limits)
