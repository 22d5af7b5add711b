"""What the report draws: curves and histograms, small enough to carry in one file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from demur.monitor.evaluate.counts import Values
from demur.monitor.evaluate.curve import MOST_VERTICES, Curve
from demur.monitor.evaluate.grid import Tally
from demur.monitor.evaluate.pool import Pool
from demur.monitor.evaluate.questions import Question
from demur.monitor.evaluate.risk_coverage import risk_coverage_curve
from demur.monitor.evaluate.roc import roc_curve

SCORE_BINS, P_BINS = 48, 20
FEWEST_VERTICES = 60
TAIL = 0.005  # of the units may lie beyond either end of a score's histogram, in its outermost bins
MOST_CURVES = 240  # beyond it only the curves of `all` and of the in-distribution set are kept
VERTICES = 48_000  # of all curves together: about 1 MB


@dataclass(frozen=True, eq=False)
class Plot:
    """One thinned curve. kind: `roc` or `risk_coverage`."""

    kind: Literal["roc", "risk_coverage"]
    truth: str
    against: str
    score: str
    curve: Curve


@dataclass(frozen=True, eq=False)
class Histogram:
    """Units of every set in bins of one column: edges (bins + 1,), counts (sets, bins); the outermost bins are open."""

    kind: Literal["score", "p_value"]
    score: str
    edges: NDArray[np.float64]
    counts: NDArray[np.int64]


def plots(pool: Pool, score: str, asked: Sequence[Question], tally: Tally) -> list[Plot]:
    """The ROC curve of each question about errors, OOD and OMS; the risk-coverage curve where bad means wrong."""
    drawn = [q for q in asked if q.truth in ("errors", "ood", "oms")]
    if len(drawn) * len(pool.columns) * 2 > MOST_CURVES:
        drawn = [q for q in drawn if q.against in ("all", "id")]
    most = max(FEWEST_VERTICES, min(MOST_VERTICES, VERTICES // max(1, 2 * len(drawn) * len(pool.columns))))
    found = []
    for question in drawn:
        here = tally.ask(question).present()
        found.append(Plot("roc", question.truth, question.against, score, roc_curve(here).thinned(most)))
        if question.by_mistakes:
            curve = risk_coverage_curve(here).thinned(most)
            found.append(Plot("risk_coverage", question.truth, question.against, score, curve))
    return found


@dataclass(frozen=True)
class Operating:
    """Where the policy stands on the plots of one question: shares of good and of bad units refused, share accepted,
    share of the accepted that is bad (NaN when nothing is accepted).
    """

    truth: str
    against: str
    good_refused: float
    bad_refused: float
    coverage: float
    risk: float


def operating(pool: Pool, question: Question) -> Operating:
    """The policy's own decisions under one truth, on units with scores."""
    atom, accept = pool.atom[pool.usable], pool.accept[pool.usable]
    good, bad = (accept[np.isin(atom, side)] for side in (question.good, question.bad))
    accepted = int(good.sum() + bad.sum())
    risk = float(bad.sum() / accepted) if accepted else math.nan
    coverage = accepted / (len(good) + len(bad))
    return Operating(question.truth, question.against, 1 - float(good.mean()), 1 - float(bad.mean()), coverage, risk)


def histograms(pool: Pool, column: int) -> list[Histogram]:
    """The scores and the p-values of one column, set by set."""
    scores = pool.scores(column)
    low, high = (float(v) for v in np.quantile(scores, [TAIL, 1 - TAIL], method="inverted_cdf"))
    if not (np.isfinite([low, high]).all() and high > low):
        low, high = low - 0.5, low + 0.5
    chances = np.concatenate([judged.p_values[:, column] for judged in pool.tables.values()])[pool.usable]
    found = [Histogram("score", pool.columns[column], *_binned(pool, scores, np.linspace(low, high, SCORE_BINS + 1)))]
    if not np.isnan(chances).any():
        edges = np.linspace(0.0, 1.0, P_BINS + 1)
        found.append(Histogram("p_value", pool.columns[column], *_binned(pool, chances, edges)))
    return found


def _binned(pool: Pool, values: NDArray[np.floating], edges: Values) -> tuple[Values, NDArray[np.int64]]:
    bins = len(edges) - 1
    # A p-value of exactly 0.05 belongs to the bin that ends there, p <= 0.05 is what a rule refuses; as float32 it is above.
    place = np.clip(np.searchsorted(edges.astype(values.dtype), values, side="left") - 1, 0, bins - 1)
    cell = pool.table[pool.usable] * bins + place
    return edges, np.bincount(cell, minlength=bins * len(pool.tables)).reshape(-1, bins).astype(np.int64)
