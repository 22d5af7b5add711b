"""Calibration of one refusal rule: the good units of its fold, their table, and the threshold promised from it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from demur.detectors.promises import conditional, neyman_pearson, slices, stability
from demur.detectors.promises.clustered import INFLATION, clustered_table
from demur.detectors.promises.fold import row_mask
from demur.detectors.promises.promise import (
    CalibrationRefused,
    Good,
    Level,
    RefuseGoodAtMost,
    RuleSpec,
    StableAtContamination,
)
from demur.detectors.promises.statement import BUNDLE_CONFIDENCE, Statement
from demur.detectors.promises.wording import listed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from fractions import Fraction

    from numpy.typing import NDArray

    from demur.detectors.policy import Unit
    from demur.detectors.promises.sample import CalibrationSample
    from demur.detectors.promises.survival import Fitted


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
    if promise.by in (*conditional.BOUNDS, "early_stopping") and sample.clustered and spec.unit == "row":
        raise CalibrationRefused(
            f"by {promise.by} needs independent units, and these rows come in groups; use a group rule, or by: split"
        )
    if not spec.sliced:
        pool = table(sample, spec.column, spec.unit, promise.good, units)
        plural = "groups" if spec.unit == "row" and sample.clustered else f"{spec.unit}s"
        return slices.whole(pool, promise, alpha, plural)
    if sample.clustered:
        raise CalibrationRefused(
            "slices of rows that come in groups are not supported, a group may span slices; use a group rule or no slices"
        )
    by = sample.slices(spec.sliced)
    good = row_mask(sample, units) & good_rows(sample, promise.good)
    scores = sample.column(spec.column, sample.rows)[good]
    return slices.by_slice(scores, by.place[good], by, promise, alpha, refuse_small=refuse_small)


def most_powerful(
    spec: RuleSpec, promise: RefuseGoodAtMost, alpha: Level, sample: CalibrationSample, units: NDArray[np.bool_]
) -> tuple[RuleSpec, slices.Thresholds]:
    """The rule on the candidate that refuses most labelled outliers, every candidate paid for, and its threshold.

    Raises: CalibrationRefused without finite outliers in every candidate, or with too few good units.
    """
    tables = {c: table(sample, c, spec.unit, promise.good, units) for c in spec.candidates}
    outliers = {c: known_outliers(sample, c) for c in spec.candidates}
    if missing := [c for c, found in outliers.items() if not found.size]:
        raise CalibrationRefused(
            f"chooses among {listed(list(spec.candidates))} by their power on labelled outliers, and there are none for "
            f"{listed(missing)}; fit with --outliers, or name one column"
        )
    chosen = neyman_pearson.choose(
        {c: (t.scores, outliers[c]) for c, t in tables.items()},
        alpha,
        promise.confidence or BUNDLE_CONFIDENCE,
        inflation=tables[spec.column].inflation,
    )
    value = np.array([chosen.threshold], np.float32)
    found = slices.Thresholds(value, np.zeros(1, np.bool_), (tables[chosen.column],), (chosen.rank,), chosen.compared)
    return replace(spec, column=chosen.column), found


def stable(
    spec: RuleSpec, promise: StableAtContamination, sample: CalibrationSample, units: NDArray[np.bool_]
) -> slices.Thresholds:
    """The threshold of a stability rule. Raises: CalibrationRefused for too few units, ties, or rows that come in groups."""
    if sample.clustered and spec.unit == "row":
        raise CalibrationRefused(
            "stable_at_contamination needs independent units, and these rows come in groups; use a group rule"
        )
    return stability.thresholds(
        promise, table(sample, spec.column, spec.unit, "id", units), f"calibration {spec.unit}s"
    )


def power(spec: RuleSpec, thresholds: slices.Thresholds, sample: CalibrationSample) -> tuple[int, int] | None:
    """How many of the labelled outliers the rule refuses, and of how many; None when there are none, or no class is known."""
    outliers = known_outliers(sample, spec.column)
    if spec.sliced or not outliers.size:
        return None
    return int(np.count_nonzero(thresholds.refuses(outliers, None))), outliers.size


def known_outliers(sample: CalibrationSample, column: str) -> NDArray[np.float32]:
    """The finite scores (m,) of labelled outliers: others are INVALID in service, whatever the threshold."""
    outliers = sample.outliers.get(column, np.empty(0, np.float32))
    return outliers[np.isfinite(outliers)]


def statements(
    refusing: Fitted, alphas: Mapping[str, Fraction], sample: CalibrationSample, *, closed: bool
) -> list[Statement]:
    """One statement for each rule of the first stage; `closed` policies do not assess rows of unknown slices."""
    return [
        _stable_statement(spec, spec.promise, thresholds)
        if isinstance(spec.promise, StableAtContamination)
        else _refusal_statement(spec, thresholds, alphas[spec.name], sample, closed=closed)
        for spec, thresholds in refusing
    ]


def _stable_statement(spec: RuleSpec, promise: StableAtContamination, thresholds: slices.Thresholds) -> Statement:
    table, rank = thresholds.tables[0], thresholds.ranks[0]
    found = stability.counted(stability.stability(table.n, promise.gamma, promise.tail_nats), table, rank)
    return Statement(
        rule=spec.name,
        kind="stable",
        unit=spec.unit,
        level=promise.gamma,
        confidence=None,
        n=found.n,
        bound=found.rate_upper,
        by="rejex",
        stability=found,
    )


def _refusal_statement(
    spec: RuleSpec, thresholds: slices.Thresholds, alpha: Level, sample: CalibrationSample, *, closed: bool
) -> Statement:
    promise = spec.promise
    assert isinstance(promise, RefuseGoodAtMost)  # noqa: S101 - INVARIANT: label_free() yields nothing else
    by = sample.slices(spec.sliced) if spec.sliced else None
    pooled = [] if by is None else thresholds.pooled[: len(by.labels)].tolist()
    own = [c for c, small in enumerate(pooled) if not small]
    return Statement(
        rule=spec.name,
        kind="marginal" if promise.confidence is None else "tolerance",
        unit=spec.unit,
        level=alpha,
        confidence=promise.confidence,
        n=sum(thresholds.tables[c].n for c in own) if spec.sliced else thresholds.tables[0].n,
        bound=1.0 if promise.by == "early_stopping" else thresholds.bound(promise.confidence or BUNDLE_CONFIDENCE),
        good=promise.good,
        clustered=sample.clustered and spec.unit == "row",
        slices=tuple(by.labels[c] for c in own) if by else (),
        pooled=tuple(label for label, small in zip(by.labels, pooled, strict=True) if small) if by else (),
        sliced_by=by.noun if by else "",
        others="" if by is None or not by.others else "unavailable" if closed else "pooled",
        by=promise.by,
        power=power(spec, thresholds, sample),
        compared=thresholds.compared,
    )


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
    return np.ones(sample.rows, dtype=np.bool_) if good == "id" else errors(sample) == 0


def good_groups(sample: CalibrationSample, good: Good) -> NDArray[np.bool_]:
    """(G,) bool: for good: correct, the groups in which no row is wrong."""
    return np.ones(sample.groups, dtype=np.bool_) if good == "id" else group_losses(sample, errors(sample)) == 0


def losses(sample: CalibrationSample) -> NDArray[np.float64]:
    """(n,) losses. Raises: CalibrationRefused when there are none."""
    if sample.loss is None:
        raise CalibrationRefused("needs to know which calibration rows the model got wrong; give labels or losses")
    return sample.loss


def errors(sample: CalibrationSample) -> NDArray[np.float64]:
    """(n,) losses that are 0 or 1. Raises: CalibrationRefused when there are none, or some lie between."""
    loss = losses(sample)
    if sample.graded:
        between = np.flatnonzero((loss > 0) & (loss < 1))
        raise CalibrationRefused(
            f"counts right and wrong answers, and {between.size} losses lie between 0 and 1 ({loss[between[0]]:.3g} in row "
            f"{between[0]}); write 0 or 1, by the loss from which you call an answer wrong, or promise wrong_and_accepted_at_most "
            "on average or by: betting, which carry such losses"
        )
    return loss


def group_losses(sample: CalibrationSample, loss: NDArray[np.float64]) -> NDArray[np.float64]:
    """(G,) of row losses (n,): a group is as wrong as the worst of its rows."""
    wrong = np.zeros(sample.groups)
    if sample.group is not None:
        np.maximum.at(wrong, sample.group, loss)
    return wrong
