"""What graded losses say, beside what is said of right and wrong: means of losses, their ranking, their curves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demur.monitor.evaluate.bootstrap import Resampler
from demur.monitor.evaluate.curve import MOST_VERTICES
from demur.monitor.evaluate.errors import EvaluationError
from demur.monitor.evaluate.estimate import Estimate
from demur.monitor.evaluate.figures import FEWEST_VERTICES, MOST_CURVES, VERTICES, Operating, Plot
from demur.monitor.evaluate.judged import Report
from demur.monitor.evaluate.loss_ranking import LossQuestion, LossRanking, loss_questions, losses_of, rank_losses
from demur.monitor.evaluate.mean_loss import mean_estimate
from demur.monitor.evaluate.pool import ALL, ID, Part, Pool
from demur.monitor.evaluate.risk_coverage import risk_coverage_curve
from demur.monitor.evaluate.settings import Settings

LEFT_OUT = (
    "graded losses, numbers from 0 to 1: what needs right and wrong answers (AUROC of mistakes, OSCR, SCOD, MCC, causes) is left out, "
    "because nobody said from which loss an answer is wrong"
)


@dataclass(frozen=True)
class LossOutcome:
    """Means over all units of one set, in [0, 1], lower is better but for the gain: of every loss; of the loss that was accepted
    (refused units as 0, the residual hazard); of the loss that was refused (the safety gain). The last two add up to the first.
    """

    set: str
    units: int
    mean_loss: Estimate
    residual_hazard: Estimate
    safety_gain: Estimate


@dataclass(frozen=True)
class Graded:
    """Sets whose losses are graded, and every score against these losses."""

    sets: tuple[LossOutcome, ...]
    rankings: tuple[LossRanking, ...]

    def ranking(self, truth: str, score: str, against: str = ID) -> LossRanking:
        """One score against `loss` or `loss_oms`. Raises: EvaluationError for what was not asked."""
        for found in self.rankings:
            if (found.truth, found.against, found.score) == (truth, against, score):
                return found
        known = sorted({f"{r.truth} on {r.against}" for r in self.rankings})
        raise EvaluationError(
            f"no ranking of {score!r} for {truth} on {against}; there are {', '.join(known) or 'none'}"
        )


@dataclass(frozen=True)
class Drawn:
    """Risk-coverage curves of graded losses, and where the policy stands on them."""

    plots: tuple[Plot, ...]
    operating: tuple[Operating, ...]


def graded_of(
    pool: Pool,
    columns: list[tuple[int, str]],
    resampler: Resampler | None,
    settings: Settings,
    hear: Callable[[str], Report],
) -> tuple[Graded | None, Drawn]:
    """None where no set has graded losses. columns: place and name of every score; `resampler` is over the usable units;
    `hear` makes the listener for resampling of that name.
    """
    sets = [part for part, judged in pool.tables.items() if judged.loss is not None]
    if not sets:
        return None, Drawn((), ())
    asked = loss_questions(pool)
    few = len(asked) * len(columns) <= MOST_CURVES
    most = max(FEWEST_VERTICES, min(MOST_VERTICES, VERTICES // max(1, len(asked) * len(columns))))
    rankings, plots = [], []
    for ranking, counts in rank_losses(pool, columns, asked, resampler, hear):
        rankings.append(ranking)
        if few or ranking.against in (ALL, ID):
            curve = risk_coverage_curve(counts).thinned(most)
            plots.append(Plot("risk_coverage", ranking.truth, ranking.against, ranking.score, curve))
    outcomes = tuple(_outcome(pool, part, settings) for part in sets)
    return Graded(outcomes, tuple(rankings)), Drawn(tuple(plots), tuple(_operating(pool, q) for q in asked))


def _outcome(pool: Pool, part: Part, settings: Settings) -> LossOutcome:
    judged = pool.tables[part]
    loss = np.zeros(0) if judged.loss is None else judged.loss

    def mean(of: NDArray[np.float64]) -> Estimate:
        return mean_estimate(of, settings.confidence, settings.seed, alone=judged.cluster is None)

    lost = np.where(judged.accept, loss, 0.0)
    return LossOutcome(part.name, len(judged), mean(loss), mean(lost), mean(loss - lost))


def _operating(pool: Pool, question: LossQuestion) -> Operating:
    """What the policy accepts of these units, and the mean loss of that; good and bad units nobody knows."""
    accept, loss = pool.accept[pool.usable][question.rows], losses_of(pool)[question.rows]
    risk = float(loss[accept].mean()) if accept.any() else np.nan
    return Operating(question.truth, question.against, np.nan, np.nan, float(accept.mean()), risk)
