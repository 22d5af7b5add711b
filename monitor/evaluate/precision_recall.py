"""Precision against recall, in its step form, for either class as the positive one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from demur.monitor.evaluate.counts import Counts, both, share


def aupr_bad(counts: Counts) -> Any:
    """Average precision with bad units as positives: sum over thresholds of (recall gained) x precision.

    Range: (0, 1], higher is better; a random ranking has the share of bad units. The step form: a trapezoid between
    thresholds interpolates optimistically (Davis and Goadrich 2006). Depends on the class ratio.
    """
    precision = share(counts.bad_flagged, np.maximum(counts.bad_flagged + counts.good_flagged, 1.0))
    return both(counts, (share(counts.bad, counts.bad_total) * precision).sum(axis=0))


def aupr_good(counts: Counts) -> Any:
    """Average precision with good units as positives, accepting from the lowest score upwards.

    Range: (0, 1], higher is better; a random ranking has the share of good units.
    """
    precision = share(counts.good_accepted, np.maximum(counts.bad_accepted + counts.good_accepted, 1.0))
    return both(counts, (share(counts.good, counts.good_total) * precision).sum(axis=0))


@dataclass(frozen=True)
class F1Optimum:
    """The best F1 over every observed threshold (flagged at or above it), with the precision and recall there."""

    f1: float
    threshold: float
    precision: float
    recall: float


def f1_optimal(counts: Counts) -> F1Optimum:
    """The largest 2 TP / (flagged + bad) with bad units as positives; of equal ones the highest threshold.

    Range: (0, 1], higher is better. It is chosen on the data it is computed on: a ceiling, not a forecast.
    Source: the monitoring benchmark of Guérin et al. 2023 sweeps the same thresholds.
    """
    flagged = counts.bad_flagged + counts.good_flagged
    f1 = 2 * counts.bad_flagged / (flagged + counts.bad_total)
    place = len(f1) - 1 - int(f1[::-1].argmax())
    hits = float(counts.bad_flagged[place])
    return F1Optimum(
        float(f1[place]), float(counts.scores[place]), hits / float(flagged[place]), hits / float(counts.bad_total)
    )
