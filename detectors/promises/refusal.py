"""Calibration of one refusal rule: the good units of its fold, their table, and the threshold promised from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from demur.detectors.promises import slices
from demur.detectors.promises.clustered import INFLATION, clustered_table
from demur.detectors.promises.fold import row_mask
from demur.detectors.promises.promise import CalibrationRefused, Good, Level, RefuseGoodAtMost, RuleSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from demur.detectors.policy import Unit
    from demur.detectors.promises.sample import CalibrationSample


def thresholds(
    spec: RuleSpec,
    promise: RefuseGoodAtMost,
    alpha: Level,
    sample: CalibrationSample,
    units: NDArray[np.bool_],
    *,
    refuse_small: bool,
) -> slices.Thresholds:
    """The thresholds of one refusal rule from the good units of `units` (U,).

    Raises: CalibrationRefused when there are too few units, no labels for good: correct, or slices of clustered rows.
    """
    if not spec.sliced:
        pool = table(sample, spec.column, spec.unit, promise.good, units)
        plural = "groups" if spec.unit == "row" and sample.clustered else f"{spec.unit}s"
        return slices.whole(pool, promise, alpha, plural)
    if sample.clustered:
        raise CalibrationRefused(
            "slices of rows that come in groups are not supported, a group may span classes; use a group rule or no slices"
        )
    if sample.predicted is None or sample.classes is None:
        raise CalibrationRefused("slices need each calibration row's predicted class and the number of classes")
    good = row_mask(sample, units) & good_rows(sample, promise.good)
    scores = sample.column(spec.column, sample.rows)[good]
    return slices.by_class(scores, sample.predicted[good], sample.classes, promise, alpha, refuse_small=refuse_small)


def table(sample: CalibrationSample, column: str, unit: Unit, good: Good, units: NDArray[np.bool_]) -> slices.Table:
    """The sorted scores of good units: aggregates of groups, streams, rows, or clustered rows weighted by 1 / group size."""
    if unit == "group":
        kept = units & good_groups(sample, good)
        return slices.Table(np.sort(sample.column(column, sample.groups)[kept]))
    rows = row_mask(sample, units) & good_rows(sample, good)
    scores = sample.column(column, sample.rows)[rows]
    if sample.group is None or not sample.clustered:
        return slices.Table(np.sort(scores))
    return slices.Table(clustered_table(scores, sample.group[rows]), INFLATION)


def good_rows(sample: CalibrationSample, good: Good) -> NDArray[np.bool_]:
    """(n,) bool. Raises: CalibrationRefused when good: correct has no losses to go by."""
    return np.ones(sample.rows, dtype=np.bool_) if good == "id" else losses(sample) == 0


def good_groups(sample: CalibrationSample, good: Good) -> NDArray[np.bool_]:
    """(G,) bool: for good: correct, the groups in which no row is wrong."""
    return np.ones(sample.groups, dtype=np.bool_) if good == "id" else group_losses(sample) == 0


def losses(sample: CalibrationSample) -> NDArray[np.float64]:
    """(n,) losses. Raises: CalibrationRefused when there are none."""
    if sample.loss is None:
        raise CalibrationRefused("needs to know which calibration rows the model got wrong; give labels or losses")
    return sample.loss


def group_losses(sample: CalibrationSample) -> NDArray[np.float64]:
    """(G,) losses: a group is wrong when any of its rows is."""
    wrong = np.zeros(sample.groups)
    if sample.group is not None:
        np.maximum.at(wrong, sample.group, losses(sample))
    return wrong
