"""Calibration of the rules that promise how much is wrong and accepted, each on its own part of the units.

The loss of a unit is 1 when the model is wrong on it, no refusal rule refuses it and its score is at most t; where losses are
graded it is any number in [0, 1], and 0 unless accepted. Rules added later only accept less, so each promise stands whatever
comes after.

On average over draws the denominator is every unit, also when the refusal thresholds come from the same units: add the test
unit and give every unit the refusal thresholds of the other n. A threshold is the k-th smallest of the others, so a unit is
below its own exactly when it is among the k smallest of all n + 1, which singles nobody out. So the n + 1 losses are
exchangeable and (sum over the calibration units + 1) / (n + 1) <= alpha controls the test unit's. Units at a threshold count as
accepted. With confidence the count must be binomial, and with shared units only that of the survivors is: their error rate is
bounded, times the share of inputs that survives. Of one refusal threshold, the rank-th of n scores, that share is below
Beta(rank, n - rank + 1) distributed whatever the scores, so a twentieth of delta pays for a bound of it.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from demur.detectors.promises import binomial, control
from demur.detectors.promises.promise import (
    CalibrationRefused,
    RefuseGoodAtMost,
    RuleSpec,
    WrongAndAcceptedAtMost,
    exact,
    kind,
)
from demur.detectors.promises.risk import Chosen, counted, survivors
from demur.detectors.promises.slices import Thresholds
from demur.detectors.promises.statement import Statement, surviving
from demur.detectors.promises.survival import independent
from demur.detectors.promises.wording import percent, percent_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from demur.detectors.promises.fold import Folds
    from demur.detectors.promises.promise import ControlBy
    from demur.detectors.promises.sample import CalibrationSample
    from demur.detectors.promises.selective import Prefixes
    from demur.detectors.promises.survival import Fitted


def stage(
    joints: Sequence[tuple[RuleSpec, WrongAndAcceptedAtMost]],
    refusing: Fitted,
    sample: CalibrationSample,
    folds: Folds,
    seed: int,
) -> list[Chosen]:
    """Calibrates the rules in policy order, the i-th on the i-th label-using part of the units, after all rules before it.

    Raises: CalibrationRefused when a promise would leave nothing to accept.
    """
    chosen: list[Chosen] = []
    for index, (spec, promise) in enumerate(joints):
        units = folds.selective(index)
        delta = None if promise.confidence is None else float(1 - exact(promise.confidence))
        proper = delta is not None and not folds.disjoint
        earlier = [*refusing, *((c.spec, c.thresholds) for c in chosen)]
        at = survivors(spec, refusing, earlier, sample, units, seed, drop_ties=proper)
        counts = counted(spec, sample, at, graded=promise.confidence is None or promise.by == "betting")
        n = counts.rows if proper else int(independent(sample, spec.unit, units, seed).size)
        alpha = exact(promise.alpha)
        if proper:
            share, delta = _surviving_share(refusing, spec, delta or 0.0)
            alpha = alpha / Fraction(share)
        last = _highest(spec, counts, n, alpha, delta, promise.by, seed)
        if last < 0:
            raise _unsupported(spec, promise, counts, n, alpha, delta, seed, clustered=sample.clustered)
        value = np.array([counts.thresholds[last]], dtype=np.float32)
        statement = _statement(spec, promise, n, Fraction(int(counts.wrong[last]), counts.scale), sample)
        thresholds = Thresholds(value, np.zeros(1, dtype=np.bool_), (), ())
        chosen.append(Chosen(spec, thresholds, statement, folds.named(index)))
    return chosen


def _highest(
    spec: RuleSpec, counts: Prefixes, n: int, alpha: Fraction, delta: float | None, by: ControlBy, seed: int
) -> int:
    try:
        return control.largest(counts, n, alpha, delta, by, seed) if alpha < 1 else counts.wrong.size - 1
    except CalibrationRefused as cause:
        raise CalibrationRefused(f"{kind(spec.promise)} {cause}", rule=spec.name) from cause


def _surviving_share(refusing: Fitted, spec: RuleSpec, delta: float) -> tuple[float, float]:
    """What P(no refusal rule refuses) does not exceed, and the delta left after paying for it; 1 and all without such a rule."""
    paid = delta / 20
    bounds = [
        binomial.upper(fitted.ranks[0] - 1, fitted.tables[0].n, paid)
        for other, fitted in refusing
        if isinstance(other.promise, RefuseGoodAtMost) and not other.sliced and other.unit == spec.unit
    ]
    return (min(bounds), delta - paid) if bounds else (1.0, delta)


def _statement(
    spec: RuleSpec, promise: WrongAndAcceptedAtMost, n: int, wrong: Fraction, sample: CalibrationSample
) -> Statement:
    return Statement(
        rule=spec.name,
        kind="joint",
        unit=spec.unit,
        level=promise.alpha,
        confidence=promise.confidence,
        n=n,
        bound=float((wrong + 1) / (n + 1)),
        graded=sample.graded,
        clustered=sample.clustered and spec.unit == "row",
        by="conformal" if promise.confidence is None else promise.by,
    )


def _unsupported(
    spec: RuleSpec,
    promise: WrongAndAcceptedAtMost,
    counts: Prefixes,
    n: int,
    alpha: Fraction,
    delta: float | None,
    seed: int,
    *,
    clustered: bool,
) -> CalibrationRefused:
    """`alpha` and `delta` are what the units were asked to carry, the promise's own or adjusted for the share that survives."""
    needed = control.units_needed(alpha, delta, promise.by)
    supported = control.smallest_supported(counts, n, delta, promise.by, seed)
    if supported is not None:
        supported *= float(exact(promise.alpha) / alpha)
    confident = "" if promise.confidence is None else f" with {percent(promise.confidence, 0)} confidence"
    units = surviving(spec.unit, clustered=clustered)
    why = f"needs at least {needed} {units}, got {n}"
    if n >= needed:
        needed = 0
        already = "have too large a loss" if counts.scale > 1 else "are already wrong too often"
        why = f"the {units} of lowest score {already}, of {n}; use a score that ranks errors higher"
    works = (
        ""
        if supported is None
        else f"; {percent_up(supported)} would work with these, but a level found on them keeps its promise only on new ones"
    )
    return CalibrationRefused(
        f"wrong_and_accepted_at_most {percent(promise.alpha)}{confident} would accept nothing: {why}{works}",
        rule=spec.name,
        rows_needed=needed or None,
        supported=supported,
        rows=n,
    )
