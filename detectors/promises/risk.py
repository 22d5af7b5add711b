"""Calibration of the selective-risk rules, each on the units that survive every other rule."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from demur.detectors.promises import refusal, selective, survival
from demur.detectors.promises.promise import CalibrationRefused, ErrorWhenAcceptedAtMost, RuleSpec, exact, kind
from demur.detectors.promises.sequential import FixedSequence, LearnThenTest
from demur.detectors.promises.slices import Thresholds
from demur.detectors.promises.statement import Statement, surviving
from demur.detectors.promises.wording import percent, percent_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from demur.detectors.promises.fold import Folds
    from demur.detectors.promises.sample import CalibrationSample
    from demur.detectors.promises.survival import Fitted

_STRICTER = Fraction(1, 2)


@dataclass(frozen=True, eq=False)
class Chosen:
    """One calibrated selective-risk rule."""

    spec: RuleSpec
    thresholds: Thresholds
    statement: Statement
    fold: str


def stage(
    selectives: Sequence[tuple[RuleSpec, ErrorWhenAcceptedAtMost]],
    refusing: Fitted,
    sample: CalibrationSample,
    folds: Folds,
    seed: int,
    before: Sequence[Chosen] = (),
) -> list[Chosen]:
    """Calibrates the rules in policy order, each on its own fold, after all rules before it; `before` took the first folds.

    All are promises about the same accepted set, which is only final after the last rule: so the last one carries the
    smallest risk and the smallest delta of them all, divided by their number. It therefore proves every statement.
    Raises: CalibrationRefused when a promise would leave nothing to accept.
    """
    chosen: list[Chosen] = []
    for index, (spec, promise) in enumerate(selectives):
        last = index == len(selectives) - 1
        risk = min(exact(p.risk) for _, p in selectives) if last else exact(promise.risk)
        delta = float(min(1 - exact(p.confidence) for _, p in selectives) / len(selectives))
        fold = len(before) + index
        earlier = [*refusing, *((c.spec, c.thresholds) for c in (*before, *chosen))]
        at = survivors(spec, refusing, earlier, sample, folds.selective(fold), seed, drop_ties=not folds.disjoint)
        counts = counted(spec, sample, at)
        selection = method(promise).select(counts, float(risk), delta)
        if selection is None:
            raise _unsupported(spec, promise, counts, risk, delta, clustered=sample.clustered)
        statement = _statement(spec, promise, counts, selection, sample, delta)
        value = np.array([selection.threshold], dtype=np.float32)
        chosen.append(
            Chosen(spec, Thresholds(value, np.zeros(1, dtype=np.bool_), (), ()), statement, folds.named(fold))
        )
    bound = chosen[-1].statement.bound if chosen else 1.0
    return [replace(c, statement=replace(c.statement, bound=bound)) for c in chosen]


def method(promise: ErrorWhenAcceptedAtMost) -> selective.Method:
    """How the promise searches its threshold."""
    if promise.by == "fixed_sequence":
        return FixedSequence(promise.starts)
    return LearnThenTest() if promise.by == "learn_then_test" else selective.SGR()


def survivors(
    spec: RuleSpec,
    refusing: Fitted,
    earlier: Fitted,
    sample: CalibrationSample,
    units: NDArray[np.bool_],
    seed: int,
    *,
    drop_ties: bool,
) -> NDArray[np.int64]:
    """Numbers of the independent units among `units` (U,) that no earlier rule refuses."""
    at = survival.independent(sample, spec.unit, units, seed)
    gone = survival.refused(earlier, sample, spec.unit)
    if drop_ties:
        gone |= survival.at_threshold(refusing, sample, spec.unit)
    return at[~gone[at]]


def counted(
    spec: RuleSpec, sample: CalibrationSample, at: NDArray[np.int64], *, graded: bool = False
) -> selective.Prefixes:
    """Errors of these units by the rule's score, or where `graded` losses will do, their sums.

    Raises: CalibrationRefused without losses, or with others than it counts.
    """
    grouped = spec.unit == "group"
    try:
        loss = refusal.losses(sample) if graded else refusal.errors(sample)
    except CalibrationRefused as cause:
        by = f" by {getattr(spec.promise, 'by', '')}" if sample.graded else ""
        raise CalibrationRefused(f"{kind(spec.promise)}{by} {cause}", rule=spec.name) from cause
    loss = refusal.group_losses(sample, loss) if grouped else loss
    scores = sample.column(spec.column, sample.groups if grouped else sample.rows)
    find = selective.graded_prefixes if graded and sample.graded else selective.prefixes
    return find(scores[at], loss[at])


def _statement(
    spec: RuleSpec,
    promise: ErrorWhenAcceptedAtMost,
    counts: selective.Prefixes,
    selection: selective.Selection,
    sample: CalibrationSample,
    delta: float,
) -> Statement:
    stricter = exact(promise.risk) * _STRICTER
    missed = method(promise).select(counts, float(stricter), delta) is None
    return Statement(
        rule=spec.name,
        kind="selective",
        unit=spec.unit,
        level=promise.risk,
        confidence=promise.confidence,
        n=counts.rows,
        bound=selection.bound,
        clustered=sample.clustered and spec.unit == "row",
        tried=stricter if missed else None,
        tried_needs=selective.rows_needed(counts, float(stricter), delta, method(promise)) if missed else None,
        by=promise.by,
    )


def _unsupported(
    spec: RuleSpec,
    promise: ErrorWhenAcceptedAtMost,
    counts: selective.Prefixes,
    risk: Fraction,
    delta: float,
    *,
    clustered: bool,
) -> CalibrationRefused:
    needed = selective.rows_needed(counts, float(risk), delta, method(promise))
    supported = method(promise).smallest_supported(counts, delta)
    units = surviving(spec.unit, clustered=clustered)
    enough = "no number of them would do" if needed is None else f"needs about {needed}"
    works = (
        ""
        if supported is None
        else f"; {percent_up(supported)} would work with these, but a level found on them keeps its full confidence only on new ones"
    )
    return CalibrationRefused(
        f"error_when_accepted_at_most {percent(risk)} with {percent(promise.confidence, 0)} confidence would accept nothing: "
        f"not supported by {counts.rows} surviving {units}; {enough}{works}",
        rule=spec.name,
        rows_needed=needed,
        supported=supported,
        rows=counts.rows,
    )
