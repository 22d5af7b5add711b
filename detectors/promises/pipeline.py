"""Calibration of a whole policy: refusal rules first, then each selective-risk rule on what survives every other rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from demur.detectors.policy import Rule
from demur.detectors.promises import joint, refusal, risk, total
from demur.detectors.promises.digest import policy_digest
from demur.detectors.promises.fold import Folds, split
from demur.detectors.promises.policy_order import check_policy, joints, label_free, levels, refusals, selectives
from demur.detectors.promises.promise import (
    CalibrationRefused,
    Level,
    RefuseGoodAtMost,
    RuleSpec,
    StableAtContamination,
)
from demur.detectors.promises.statement import UNDER_LINES, Statement
from demur.detectors.promises.wording import listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from fractions import Fraction

    from numpy.typing import NDArray

    from demur.detectors.policy import Unit
    from demur.detectors.promises.sample import CalibrationSample
    from demur.detectors.promises.slices import Thresholds
    from demur.detectors.promises.survival import Fitted
    from demur.detectors.promises.total import TotalShare

SmallSlices = Literal["pool", "refuse"]


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A policy whose every rule has its threshold and its statement.

    `rules` and `statements` are in policy order. `tables` holds, for every column of the sample, the sorted float32 tables
    its p-values are read from: one, or one per slice. `n` counts calibration units; `survivors` and `folds` say,
    by rule name, how many units a selective-risk rule saw and which part of the units a rule was calibrated on.
    """

    rules: tuple[Rule, ...]
    tables: Mapping[str, tuple[NDArray[np.float32], ...]]
    statements: tuple[Statement, ...]
    total: TotalShare
    policy_digest: str
    n: int
    survivors: Mapping[str, int]
    folds: Mapping[str, str]

    @property
    def under_lines(self) -> tuple[str, ...]:
        """What every printing of the statements ends with."""
        return (*UNDER_LINES, self.total.text, self.theorems)

    @property
    def theorems(self) -> str:
        """By which theorem, and from how many units, each promise holds; one line."""
        return f"By theorem: {'; '.join(f'{s.rule}, {s.theorem}, from {s.units}' for s in self.statements)}."

    @property
    def text(self) -> str:
        """All statements, a paragraph each, and what is not promised."""
        width = max(len(s.rule) for s in self.statements)
        return "\n".join([*(f"{s.rule:<{width}}  {s.text}" for s in self.statements), *self.under_lines])


def calibrate(
    specs: Sequence[RuleSpec],
    sample: CalibrationSample,
    *,
    refuse_good_at_most: Level | None = None,
    small_slices: SmallSlices = "pool",
    seed: int = 0,
) -> Calibrated:
    """Thresholds and statements for a policy.

    `refuse_good_at_most` is the policy's total, shared by the refusal rules without a level of their own. `seed` fixes the
    splits and the row drawn from each group.
    Raises: ValueError for a policy or sample that makes no sense; CalibrationRefused, naming the rule, for a promise these
    units cannot carry, with the units needed or the level that would work.
    """
    check_policy(specs)
    alphas = levels(specs, refuse_good_at_most)
    _check_sample(specs, sample)
    closed = small_slices == "refuse"
    folds, refusing = _refusal_stage(specs, sample, alphas, seed, refuse_small=closed)
    if refuse_good_at_most is not None:
        _check_total(specs, refusing, sample, closed=closed)
    first = joint.stage(joints(specs), refusing, sample, folds, seed)
    chosen = [*first, *risk.stage(selectives(specs), refusing, sample, folds, seed, first)]
    fitted = [*refusing, *((c.spec, c.thresholds) for c in chosen)]
    by_name = {spec.name: (spec, thresholds) for spec, thresholds in fitted}
    statements = {
        s.rule: s
        for s in (*refusal.statements(refusing, alphas, sample, closed=closed), *(c.statement for c in chosen))
    }
    return Calibrated(
        rules=tuple(_rule(*by_name[s.name]) for s in specs),
        tables=_tables(specs, sample, refusing),
        statements=tuple(statements[s.name] for s in specs),
        total=total.estimated(fitted, sample, refuse_good_at_most, alphas, seed),
        policy_digest=policy_digest(specs, refuse_good_at_most),
        n=sample.units,
        survivors={c.spec.name: c.statement.n for c in chosen},
        folds={s.name: folds.named(None) for s, _ in refusing} | {c.spec.name: c.fold for c in chosen},
    )


def _of_a_part(refused: CalibrationRefused, sample: CalibrationSample, units: NDArray[np.bool_]) -> CalibrationRefused:
    """The same refusal, saying that only a part of the units counts here."""
    part = f"{np.count_nonzero(units)} of the {sample.units} calibration units; the others set the rules about errors"
    return refused.adding(f" (counted on {part})")


def _check_sample(specs: Sequence[RuleSpec], sample: CalibrationSample) -> None:
    if sample.weight is not None:
        raise CalibrationRefused(
            "no promise here can carry row weights; remove the weight column, or calibrate on rows drawn as in service",
            rule=specs[0].name,
        )
    if sample.group is None and any(s.unit == "group" for s in specs):
        raise ValueError("group rules need each calibration row's group id, got none")
    for spec in specs:
        for column in spec.columns:
            sample.column(column, sample.groups if spec.unit == "group" else sample.rows)


def _refusal_stage(
    specs: Sequence[RuleSpec],
    sample: CalibrationSample,
    alphas: Mapping[str, Fraction],
    seed: int,
    *,
    refuse_small: bool,
) -> tuple[Folds, Fitted]:
    after = len(joints(specs)) + len(selectives(specs))
    labelled = any(p.good == "correct" for _, p in refusals(specs))
    weighted = sample.clustered and any(s.unit == "row" for s, _ in refusals(specs))
    chosen = any(s.candidates for s in specs)

    def attempt(*, disjoint: bool) -> tuple[Folds, Fitted]:
        folds = split(sample, after, seed, disjoint=disjoint)
        units = folds.refusal()
        try:
            return folds, [
                _named(s, p, alphas.get(s.name), sample, units, refuse_small=refuse_small) for s, p in label_free(specs)
            ]
        except CalibrationRefused as refused:
            raise (_of_a_part(refused, sample, units) if disjoint else refused) from None

    folds, fitted = attempt(disjoint=bool(after and (labelled or weighted or chosen)))
    # A tie at a threshold is an atom of the score: rows at it are accepted, so dropping them would bias the survivors.
    if after and not folds.disjoint and any(thresholds.tied for _, thresholds in fitted):
        return attempt(disjoint=True)
    return folds, fitted


def _named(
    spec: RuleSpec,
    promise: RefuseGoodAtMost | StableAtContamination,
    alpha: Fraction | None,
    sample: CalibrationSample,
    units: NDArray[np.bool_],
    *,
    refuse_small: bool,
) -> tuple[RuleSpec, Thresholds]:
    """The rule, on the column that was chosen for it, and its threshold."""
    try:
        if isinstance(promise, StableAtContamination):
            return spec, refusal.stable(spec, promise, sample, units)
        assert alpha is not None  # noqa: S101 - INVARIANT: levels() has every refusal rule
        if spec.candidates:
            return refusal.most_powerful(spec, promise, alpha, sample, units)
        return spec, refusal.thresholds(spec, promise, alpha, sample, units, refuse_small=refuse_small)
    except CalibrationRefused as cause:
        raise CalibrationRefused(
            str(cause), rule=spec.name, rows_needed=cause.rows_needed, supported=cause.supported, rows=cause.rows
        ) from cause


def _check_total(specs: Sequence[RuleSpec], refusing: Fitted, sample: CalibrationSample, *, closed: bool) -> None:
    if len({p.good for _, p in refusals(specs)}) > 1:
        raise ValueError("policy: a total refuse_good_at_most needs the same `good` in every refusal rule")
    if len({s.unit for s, _ in refusals(specs)}) > 1 and any(p.good == "correct" for _, p in refusals(specs)):
        raise ValueError(
            "policy: a total refuse_good_at_most with good: correct needs one unit in every refusal rule, because a correct "
            "row of a group that has a wrong one is no good group; use good: id, or one unit"
        )
    for spec, thresholds in refusing:
        by = sample.slices(spec.sliced) if spec.sliced else None
        if by is None:
            continue
        pooled = thresholds.pooled.tolist()
        found = [f"{by.noun} {label}" for label, small in zip(by.labels, pooled, strict=False) if small]
        if found or (by.others and not closed):
            others = f"any {by.noun} that calibration did not have" if by.others and not closed else ""
            raise CalibrationRefused(
                f"{listed([*found, *filter(None, [others])])} would fall back to the pooled table, for which the policy's total "
                "refuse_good_at_most cannot be promised; use small_slices: refuse, give more rows, or remove the slices",
                rule=spec.name,
            )


def _rule(spec: RuleSpec, thresholds: Thresholds) -> Rule:
    return Rule(spec.name, spec.column, spec.reason, thresholds.values, thresholds.pooled)


def _tables(
    specs: Sequence[RuleSpec], sample: CalibrationSample, refusing: Fitted
) -> dict[str, tuple[NDArray[np.float32], ...]]:
    """A rule's column has the table its threshold comes from, so that p <= alpha and score > threshold are one event."""
    units = np.ones(sample.units, dtype=np.bool_)
    judged: dict[str, Unit] = {c: s.unit for s in specs for c in s.columns}
    tables = {}
    for name, column in sample.scores.items():
        unit: Unit = judged.get(name, "group" if sample.groups and len(column) != sample.rows else "row")
        tables[name] = (refusal.table(sample, name, unit, "id", units).scores,)
    return tables | {spec.column: tuple(t.scores for t in fitted.tables) for spec, fitted in refusing}
