"""What calibrated rules do to calibration units: which they refuse, and which sit exactly at a threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from demur.detectors.promises.clustered import one_row_per_group

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from demur.detectors.policy import Unit
    from demur.detectors.promises.promise import RuleSpec
    from demur.detectors.promises.sample import CalibrationSample
    from demur.detectors.promises.slices import Thresholds

    Fitted = Sequence[tuple[RuleSpec, Thresholds]]


def refused(fitted: Fitted, sample: CalibrationSample, unit: Unit) -> NDArray[np.bool_]:
    """Units some rule refuses; a row is also refused with its group. Shapes: (G,) for unit group, else (n,)."""

    def above(spec: RuleSpec, thresholds: Thresholds, scores: NDArray[np.float32]) -> NDArray[np.bool_]:
        return thresholds.refuses(scores, sample.slices(spec.sliced).place if spec.sliced else None)

    return _any(fitted, sample, unit, above)


def at_threshold(fitted: Fitted, sample: CalibrationSample, unit: Unit) -> NDArray[np.bool_]:
    """Units whose score equals a threshold. Shapes: (G,) for unit group, else (n,)."""

    def at(_spec: RuleSpec, thresholds: Thresholds, scores: NDArray[np.float32]) -> NDArray[np.bool_]:
        return np.isin(scores, thresholds.values)

    return _any(fitted, sample, unit, at)


def _any(
    fitted: Fitted,
    sample: CalibrationSample,
    unit: Unit,
    test: Callable[[RuleSpec, Thresholds, NDArray[np.float32]], NDArray[np.bool_]],
) -> NDArray[np.bool_]:
    found = np.zeros(sample.groups if unit == "group" else sample.rows, dtype=np.bool_)
    for spec, thresholds in fitted:
        length = sample.groups if spec.unit == "group" else sample.rows
        hit = test(spec, thresholds, sample.column(spec.column, length))
        found |= hit[sample.group] if spec.unit == "group" and unit != "group" else hit
    return found


def independent(sample: CalibrationSample, unit: Unit, units: NDArray[np.bool_], seed: int) -> NDArray[np.int64]:
    """Numbers of independent rows (or groups) among `units` (U,): one drawn row a group where rows carry group ids.

    A binomial count needs independent trials, and rows of one group are not; drawing one keeps the 1 / group size weights.
    """
    if unit == "group" or sample.group is None:
        return np.flatnonzero(units)
    return one_row_per_group(sample.group, seed)[units]
