"""How well each score ranks graded losses: by what is accepted and lost, whatever one would call a wrong answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from demur.monitor.evaluate.bootstrap import Resampler
from demur.monitor.evaluate.counts import Counts, Values
from demur.monitor.evaluate.estimate import Estimate
from demur.monitor.evaluate.grid import merged
from demur.monitor.evaluate.judged import Report
from demur.monitor.evaluate.pool import ALL, Part, Pool
from demur.monitor.evaluate.ranking import MOST_BINS
from demur.monitor.evaluate.risk_coverage import augrc, aurc, selective_area

BATCH = 128

LossTruth = Literal["loss", "loss_oms"]
LOSS_MEANING: dict[str, str] = {
    "loss": "the graded losses of one set",
    "loss_oms": "graded losses; the loss of every novel input is 1, of a wrong answer too",
}


@dataclass(frozen=True)
class LossQuestion:
    """Losses of one set (`loss`), or of the in-distribution set with `against`, a set or `all` (`loss_oms`). rows (n,): its
    units, by their place among the usable ones of the pool.
    """

    truth: LossTruth
    against: str
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class LossRanking:
    """One score against graded losses: metrics are `aurc`, `e_aurc` and `augrc`, of `units` units with this mean loss."""

    truth: str
    against: str
    score: str
    units: int
    mean_loss: float
    metrics: Mapping[str, Estimate]


def losses_of(pool: Pool) -> Values:
    """(usable units,) in [0, 1]: graded where they are, 1 for novel inputs and wrong answers, NaN where nobody knows."""
    whole = []
    for part, judged in pool.tables.items():
        known = np.ones(len(judged)) if part.kind == "novel" else judged.loss if judged.wrong is None else judged.wrong
        whole.append(np.full(len(judged), np.nan) if known is None else known.astype(np.float64))
    return np.concatenate(whole)[pool.usable]


def loss_questions(pool: Pool) -> list[LossQuestion]:
    """Every set with graded losses, and every pool that holds one beside other sets whose losses are known."""
    graded = [part for part, judged in pool.tables.items() if judged.loss is not None]
    asked: list[tuple[LossTruth, str, tuple[Part, ...]]] = [("loss", part.name, (part,)) for part in graded]
    alone = [(p.name, (pool.parts[0], p)) for p in pool.others]
    pools = alone if len(alone) < 2 else [*alone, (ALL, pool.parts)]
    asked += [("loss_oms", name, parts) for name, parts in pools if any(p in graded for p in parts)]
    known, table = ~np.isnan(losses_of(pool)), pool.table[pool.usable]
    found = []
    for truth, name, parts in asked:
        sides = [known & (table == pool.parts.index(part)) for part in parts]
        if truth == "loss" or (sides[0].any() and any(side.any() for side in sides[1:])):
            found.append(LossQuestion(truth, name, np.flatnonzero(np.any(sides, axis=0))))
    return [question for question in found if len(question.rows)]


@dataclass(frozen=True, eq=False)
class _Cells:
    """Units of one question by the distinct values (K,) of a score or of their losses: place (n,), rows (n,), loss (n,)."""

    values: Values
    place: NDArray[np.int64]
    rows: NDArray[np.int64]
    loss: Values

    @classmethod
    def of(cls, values: Values, question: LossQuestion, losses: Values, most: int | None = None) -> _Cells:
        distinct, place = merged(values[question.rows], most)
        return cls(distinct, place, question.rows, losses[question.rows])

    def counts(self) -> Counts:
        """Every unit once."""
        count = len(self.values)
        size = np.bincount(self.place, minlength=count).astype(np.float64)
        loss = np.zeros(count)
        np.add.at(loss, self.place, self.loss)
        return Counts(self.values, size - loss, loss)

    @cached_property
    def _sums(self) -> tuple[Any, Any]:
        """(K, n) each: what sums units, and what sums their losses, by value."""
        from scipy.sparse import csr_array

        at, shape = (self.place, np.arange(len(self.rows))), (len(self.values), len(self.rows))
        return csr_array((np.ones(len(self.rows)), at), shape=shape), csr_array((self.loss, at), shape=shape)

    def resampled(self, weights: Values) -> Counts:
        """By weights (usable units, B) of resamples."""
        size, loss = (np.asarray(sums @ weights[self.rows]) for sums in self._sums)
        return Counts(self.values, size - loss, loss)


def loss_metrics(by_score: Counts, by_loss: Counts) -> dict[str, Any]:
    """AURC, E-AURC and AUGRC of losses, () or (B,): AURC over what the best order, by the loss itself, has in the limit.

    With losses of 0 and 1 they are those of `risk_coverage`.
    """
    area = aurc(by_score)
    best = selective_area(by_loss.good, by_loss.bad)
    return {"aurc": area, "e_aurc": area - best, "augrc": augrc(by_score)}


def rank_losses(
    pool: Pool,
    columns: list[tuple[int, str]],
    asked: list[LossQuestion],
    resampler: Resampler | None,
    hear: Callable[[str], Report],
) -> Iterator[tuple[LossRanking, Counts]]:
    """Every question about every column (place, name), with the counts that its curve is drawn from. What `hear` makes hears how
    many resamples are done; `resampler` is over the pool's usable units.
    """
    losses = losses_of(pool)
    for question in asked:
        best = _Cells.of(losses, question, losses)
        scores = [_Cells.of(pool.scores(column), question, losses) for column, _ in columns]
        spread = None if resampler is None else _resampled(scores, best, resampler, hear(f"losses, {question.against}"))
        for number, ((_, name), cells) in enumerate(zip(columns, scores, strict=True)):
            counts = cells.counts()
            exact = {n: float(v) for n, v in loss_metrics(counts, best.counts()).items()}
            found = {
                n: _estimate(v, None if spread is None else spread[number, n], resampler) for n, v in exact.items()
            }
            mean = float(losses[question.rows].mean())
            yield LossRanking(question.truth, question.against, name, len(question.rows), mean, found), counts


def _resampled(
    scores: list[_Cells], best: _Cells, resampler: Resampler, report: Report
) -> dict[tuple[int, str], Values]:
    """(draws,) values by column and metric, moved by what merging values into bins did to the value itself."""
    coarse, ideal = [_merged(cells) for cells in scores], _merged(best)
    found: dict[tuple[int, str], list[Any]] = {}
    for weights in resampler.weights(BATCH):
        by_loss = ideal.resampled(weights)
        for number, cells in enumerate(coarse):
            for name, value in loss_metrics(cells.resampled(weights), by_loss).items():
                found.setdefault((number, name), []).append(value)
        report(weights.shape[1])
    moved = {}
    for number, (cells, bins) in enumerate(zip(scores, coarse, strict=True)):
        merged_values = loss_metrics(bins.counts(), ideal.counts())
        for name, value in loss_metrics(cells.counts(), best.counts()).items():
            moved[number, name] = float(value - merged_values[name])
    return {key: np.concatenate(parts) + moved[key] for key, parts in found.items()}


def _merged(cells: _Cells) -> _Cells:
    if len(cells.values) <= MOST_BINS:
        return cells
    values, place = merged(cells.values[cells.place], MOST_BINS)
    return _Cells(values, place, cells.rows, cells.loss)


def _estimate(value: float, found: Values | None, resampler: Resampler | None) -> Estimate:
    limits = None if found is None or resampler is None else resampler.interval(found)
    return Estimate(value) if limits is None else Estimate(value, *limits)
