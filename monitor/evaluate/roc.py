"""Ranking bad above good units: area under the ROC curve, and the two numbers that are both called FPR95."""

from __future__ import annotations

from typing import Any

import numpy as np

from demur.monitor.evaluate.counts import Counts, both, share
from demur.monitor.evaluate.curve import Curve

ROUNDING = 1e-9  # 0.95 * 140 is 132.99999999999997: a whole number of units must not fail by the last bit


def auroc(counts: Counts) -> Any:
    """P(score of a bad unit > score of a good unit) + P(equal) / 2.

    Range: [0, 1], higher is better, 0.5 is chance; negating all scores gives 1 - AUROC. Exact with ties.
    Source: Hanley and McNeil 1982 (the Mann-Whitney statistic).
    """
    above = np.einsum("k...,k...->...", counts.bad, counts.good_accepted)
    tied = np.einsum("k...,k...->...", counts.bad, counts.good)
    return share(above - tied / 2, counts.good_total * counts.bad_total)


def bad_accepted_at_good_tpr(counts: Counts, at: float = 0.95) -> Any:
    """Share of bad units accepted by the lowest observed threshold that accepts at least `at` of the good ones.

    Range: [0, 1], lower is better. With novel inputs as bad this is `ood_accepted_at_id_tpr95`, the usual FPR95 of vision
    papers. No interpolation: the threshold is an observed score, and all units tied with it are accepted.
    """
    reached = counts.good_accepted >= (at - ROUNDING) * counts.good_total
    place = np.expand_dims(reached.argmax(axis=0), 0)
    return both(counts, share(np.take_along_axis(counts.bad_accepted, place, axis=0)[0], counts.bad_total))


def good_rejected_at_bad_tpr(counts: Counts, at: float = 0.95) -> Any:
    """Share of good units rejected by the highest observed threshold that rejects at least `at` of the bad ones.

    Range: [0, 1], lower is better. With novel inputs as bad this is `id_rejected_at_ood_tpr95`, the FPR95 of the
    outlier-exposure paper and of OpenOOD since 1.5, which treat OOD as positive.
    """
    reached = counts.bad_flagged >= (at - ROUNDING) * counts.bad_total
    place = np.expand_dims(np.maximum(reached.sum(axis=0) - 1, 0), 0)
    return both(counts, share(np.take_along_axis(counts.good_flagged, place, axis=0)[0], counts.good_total))


def roc_curve(counts: Counts) -> Curve:
    """Vertices: x = share of good units rejected, y = share of bad ones, at every threshold from none to all rejected."""
    x = np.append(0.0, counts.good_flagged[::-1] / counts.good_total)
    y = np.append(0.0, counts.bad_flagged[::-1] / counts.bad_total)
    return Curve(x, y, np.append(np.inf, counts.scores[::-1]))
