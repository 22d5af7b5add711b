"""Classifying what is known while refusing what is novel: OSCR, CCR at an FPR, and the joint risk of SCOD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from demur.monitor.evaluate.counts import Counts, Values, share
from demur.monitor.evaluate.errors import EvaluationError
from demur.monitor.evaluate.risk_coverage import selective_area
from demur.monitor.evaluate.roc import ROUNDING, auroc


@dataclass(frozen=True, eq=False)
class OpenSet:
    """Known units answered right as good and novel units as bad, at distinct scores; wrong (K,) or (K, B) beside them:
    known units answered wrong, which only count in the number of known units.
    """

    ranked: Counts
    wrong: Values

    @property
    def accuracy(self) -> Any:
        """Right among known units: () or (B,)."""
        right = self.ranked.good_total
        return share(right, right + self.wrong.sum(axis=0))


@dataclass(frozen=True)
class Costs:
    """What a refused known unit, and an accepted novel one, cost; an accepted wrong answer costs what is left of 1."""

    known_refused: float = 1 / 3
    novel_accepted: float = 1 / 3

    def __post_init__(self) -> None:
        """Raises: EvaluationError for negative costs or a sum above 1."""
        if min(self.known_refused, self.novel_accepted) < 0 or self.wrong_accepted < -1e-12:
            raise EvaluationError(
                f"costs: expected two shares of at least 0 and a sum of at most 1, got {self.known_refused} and {self.novel_accepted}"
            )

    @property
    def wrong_accepted(self) -> float:
        return 1 - self.known_refused - self.novel_accepted


def oscr(units: OpenSet) -> Any:
    """Area of CCR(t) = P(known: right and score <= t) over FPR(t) = P(novel: score <= t), by the trapezoid.

    Range: [0, accuracy], higher is better. Equals accuracy x AUROC(right known against novel), ties included.
    Source: Dhamija et al. 2018.
    """
    return units.accuracy * auroc(units.ranked)


def ccr_at_fpr(units: OpenSet, fpr: float) -> Any:
    """The largest CCR over observed thresholds that accept at most `fpr` of the novel units; 0 when none does.

    Range: [0, accuracy], higher is better. Source: Dhamija et al. 2018.
    """
    ranked = units.ranked
    fits = ranked.bad_accepted <= (fpr + ROUNDING) * ranked.bad_total
    right = np.where(fits, ranked.good_accepted, 0.0).max(axis=0)
    return np.where(ranked.bad_total > 0, share(right, ranked.good_total) * units.accuracy, np.nan)


def joint_risk(wrong_accepted: Any, known_refused: Any, novel_accepted: Any, costs: Costs) -> Any:
    """(1 - c_in - c_out) P_in(wrong, accepted) + c_in P_in(refused) + c_out P_out(accepted); the three P are given.

    Range: [0, 1], lower is better. Source: Narasimhan et al. 2024 (SCOD), eq. 1.
    """
    return (
        costs.wrong_accepted * wrong_accepted
        + costs.known_refused * known_refused
        + costs.novel_accepted * novel_accepted
    )


def least_joint_risk(units: OpenSet, costs: Costs) -> float:
    """The least joint risk over every observed threshold, accepting nothing included: a ceiling, not a forecast."""
    ranked = units.ranked
    known = float(ranked.good_total + units.wrong.sum())
    wrong, right = np.cumsum(units.wrong) / known, ranked.good_accepted / known
    novel = ranked.bad_accepted / float(ranked.bad_total)
    return float(min(costs.known_refused, joint_risk(wrong, 1 - wrong - right, novel, costs).min()))


def joint_aurc(units: OpenSet, novel_share: float) -> float:
    """Mean over coverages of [(1 - pi) P_in(wrong, accepted) + pi P_out(accepted)] / P(accepted), pi = `novel_share`.

    Range: [0, 1], lower is better. Tied units are spread evenly. Source: Narasimhan et al. 2024 (AUC-RC).
    """
    known = (1 - novel_share) / float(units.ranked.good_total + units.wrong.sum())
    novel = novel_share / float(units.ranked.bad_total)
    return float(selective_area(units.ranked.good * known, units.wrong * known + units.ranked.bad * novel))
