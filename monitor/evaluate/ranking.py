"""How well each score ranks bad above good, for every question, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.monitor.evaluate import open_set, precision_recall, risk_coverage, roc
from demur.monitor.evaluate.bootstrap import Resampler
from demur.monitor.evaluate.counts import Counts
from demur.monitor.evaluate.estimate import Estimate
from demur.monitor.evaluate.grid import Grid, Tally
from demur.monitor.evaluate.open_set import OpenSet
from demur.monitor.evaluate.pool import ID, Pool
from demur.monitor.evaluate.precision_recall import F1Optimum
from demur.monitor.evaluate.questions import Question

MOST_BINS = 2048  # resampling a score of more distinct values works on this many bins
CELLS = 1 << 17  # of one batch of resamples: 1 MiB an array stays in cache

Metric = Callable[[Counts], Any]
RANKING: dict[str, Metric] = {
    "auroc": roc.auroc,
    "aupr_bad": precision_recall.aupr_bad,
    "aupr_good": precision_recall.aupr_good,
    "bad_accepted_at_good_tpr95": roc.bad_accepted_at_good_tpr,
    "good_rejected_at_bad_tpr95": roc.good_rejected_at_bad_tpr,
}
SELECTIVE: dict[str, Metric] = {
    "aurc": risk_coverage.aurc,
    "e_aurc": risk_coverage.e_aurc,
    "augrc": risk_coverage.augrc,
}
OOD_NAMES = {
    "bad_accepted_at_good_tpr95": "ood_accepted_at_id_tpr95",
    "good_rejected_at_bad_tpr95": "id_rejected_at_ood_tpr95",
}
FPRS = {"ccr_at_fpr01": 0.01, "ccr_at_fpr05": 0.05, "ccr_at_fpr10": 0.10}


@dataclass(frozen=True)
class Ranking:
    """One score under one truth on one pool. bad, good: units. metrics by name; f1_optimal is chosen on these very data."""

    truth: str
    against: str
    score: str
    bad: int
    good: int
    metrics: Mapping[str, Estimate]
    f1_optimal: F1Optimum


def metrics_of(question: Question) -> dict[str, Metric]:
    """What is measured for a question, by the name it is reported under."""
    names = OOD_NAMES if question.truth.endswith("ood") else {}
    found = {names.get(name, name): metric for name, metric in RANKING.items()}
    return found | (SELECTIVE if question.by_mistakes else {})


def open_set_of(pool: Pool, tally: Tally, question: Question) -> OpenSet | None:
    """Known right, known wrong and novel units, for an OMS question about novel sets alone on a labelled test set."""
    atoms = [(i, pool.atoms[i]) for i in (*question.good, *question.bad)]
    novel = [i for i, atom in atoms if atom.part.kind == "novel"]
    if question.truth != "oms" or not novel or any(atom.part.kind == "shifted" for _, atom in atoms):
        return None
    place = {atom.wrong: i for i, atom in atoms if atom.part.name == ID}
    if set(place) != {True, False}:
        return None
    ranked = tally.ask(Question("right_vs_ood", question.against, tuple(novel), (place[False],)))
    return OpenSet(ranked, tally.counts[place[True]])


def open_set_metrics(units: OpenSet) -> dict[str, Any]:
    """OSCR and CCR at three FPRs."""
    return {"oscr": open_set.oscr(units)} | {n: open_set.ccr_at_fpr(units, fpr) for n, fpr in FPRS.items()}


def values_of(pool: Pool, tally: Tally, question: Question) -> dict[str, Any]:
    """Every metric of a question: () or, for counts of B resamples, (B,)."""
    asked = tally.ask(question)
    found = {name: metric(asked) for name, metric in metrics_of(question).items()}
    units = open_set_of(pool, tally, question)
    return found | ({} if units is None else open_set_metrics(units))


def rank(
    pool: Pool, column: int, asked: list[Question], resampler: Resampler | None, report: Callable[[int], None]
) -> tuple[list[Ranking], Tally]:
    """Every question about one score; the tally is what curves are drawn from.

    `report` hears how many resamples are done. `resampler` is over the pool's usable units.
    """
    grid = Grid.of(pool, column)
    tally = grid.tally()
    exact = [values_of(pool, tally, question) for question in asked]
    spread = {} if resampler is None else _resampled(pool, column, grid, asked, resampler, report)
    rankings = []
    for number, (question, values) in enumerate(zip(asked, exact, strict=True)):
        here = tally.ask(question).present()
        metrics = {n: _estimate(float(v), spread.get((number, n)), resampler) for n, v in values.items()}
        sizes = int(here.bad.sum()), int(here.good.sum())
        best = precision_recall.f1_optimal(here)
        rankings.append(Ranking(question.truth, question.against, pool.columns[column], *sizes, metrics, best))
    return rankings, tally


def _resampled(
    pool: Pool,
    column: int,
    exact: Grid,
    asked: list[Question],
    resampler: Resampler,
    report: Callable[[int], None],
) -> dict[tuple[int, str], NDArray[np.float64]]:
    """(draws,) values by question and metric, moved by what merging scores into bins did to the value itself."""
    grid = exact if len(exact.scores) <= MOST_BINS else Grid.of(pool, column, MOST_BINS)
    found: dict[tuple[int, str], list[Any]] = {}
    for tally in grid.resampled(resampler, max(16, min(256, CELLS // len(grid.scores)))):
        for number, question in enumerate(asked):
            for name, value in values_of(pool, tally, question).items():
                found.setdefault((number, name), []).append(value)
        report(tally.counts.shape[2])
    moved = _merging_error(pool, grid, exact, asked) if grid is not exact else {}
    return {key: np.concatenate(parts) + moved.get(key, 0.0) for key, parts in found.items()}


def _merging_error(pool: Pool, grid: Grid, exact: Grid, asked: list[Question]) -> dict[tuple[int, str], float]:
    moved = {}
    for number, question in enumerate(asked):
        merged = values_of(pool, grid.tally(), question)
        for name, value in values_of(pool, exact.tally(), question).items():
            moved[number, name] = float(value - merged[name])
    return moved


def _estimate(value: float, found: NDArray[np.float64] | None, resampler: Resampler | None) -> Estimate:
    limits = None if found is None or resampler is None else resampler.interval(found)
    return Estimate(value) if limits is None else Estimate(value, *limits)
