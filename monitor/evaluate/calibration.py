"""Whether p-values mean what they say: uniform on in-distribution inputs, as far as calibration data can tell."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from demur.monitor.evaluate.counts import Values, checked_scores
from demur.monitor.evaluate.errors import EvaluationError

LEVELS = (0.01, 0.05, 0.1)
ROUNDING = 1e-8  # p-values are float32, and float32(0.05) is above 0.05


@dataclass(frozen=True)
class Uniformity:
    """How far the p-values of n units are from uniform.

    ks: the largest distance of their distribution function from the diagonal, in [0, 1], 0 is perfect. anticonservative:
    the part of it above the diagonal (too many small p-values: good inputs are refused more often than promised).
    at: the p-value where it is largest. ks_p: probability of a distance at least as large if test and calibration data
    were draws of one distribution, in [0, 1]. below: share of p-values at or below each level.
    """

    units: int
    calibration_units: int
    ks: float
    anticonservative: float
    at: float
    ks_p: float
    below: tuple[tuple[float, float], ...]


def uniformity(p_values: ArrayLike, calibration_units: int, levels: ArrayLike | None = None) -> Uniformity:
    """Kolmogorov-Smirnov distance of conformal p-values (N,) from the uniform on `levels`, where n is `calibration_units`.

    levels (K,): the p-values that can come, {1, ..., n + 1} / (n + 1) by default, fewer where calibration scores are tied
    (`attainable`): P(p <= v) is v at each of them, and does not rise between.
    Both samples are random, so ks_p is that of the two-sample test: effective size N n / (N + n). Asymptotic, and
    conservative where scores are tied.
    Raises: EvaluationError for NaN, p-values outside (0, 1], or no calibration units.
    """
    from scipy.stats import kstwobign

    values = checked_scores(p_values)
    if values.min() <= 0 or values.max() > 1 or calibration_units < 1:
        raise EvaluationError(
            f"p-values: expected (0, 1] from at least one calibration unit, got {values.min():g}..{values.max():g} from {calibration_units}"
        )
    grid, found = np.unique(values, return_counts=True)
    upto = np.cumsum(found) / len(values)
    above = upto - grid
    below = _level_before(grid, calibration_units, levels) - np.append(0.0, upto[:-1])
    over, under = max(0.0, float(above.max())), max(0.0, float(below.max()))
    at = float(grid[above.argmax() if over >= under else below.argmax()])
    size = len(values) * calibration_units / (len(values) + calibration_units)
    chance = float(kstwobign.sf(max(over, under) * math.sqrt(size)))
    shares = tuple((level, float(np.mean(values <= level + ROUNDING))) for level in LEVELS)
    return Uniformity(len(values), calibration_units, max(over, under), over, at, chance, shares)


def attainable(scores: ArrayLike) -> Values:
    """The p-values (K,), ascending, that calibration scores (n,) can give: a step for each distinct one, and one above all."""
    ordered = np.sort(checked_scores(scores))
    above = len(ordered) - np.searchsorted(ordered, np.unique(ordered))
    return np.append(0, above[::-1]) / (len(ordered) + 1) + 1 / (len(ordered) + 1)


def _level_before(grid: Values, units: int, levels: ArrayLike | None) -> Values:
    """The largest level below each p-value of the grid, which is as the ideal distribution has it just before; 0 for none."""
    step = 1 / (units + 1)
    if levels is None:
        return grid - step
    known = np.append(0.0, np.asarray(levels, np.float64))
    return np.asarray(known[np.searchsorted(known, grid - step / 2) - 1])
