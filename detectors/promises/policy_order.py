"""Which rules may stand together, in what order they are calibrated, and what share of the level each refusal rule gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from demur.detectors.promises.promise import (
    CalibrationRefused,
    ErrorWhenAcceptedAtMost,
    Level,
    RefuseGoodAtMost,
    RuleSpec,
    StableAtContamination,
    WrongAndAcceptedAtMost,
    exact,
    kind,
)
from demur.detectors.promises.wording import percent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from fractions import Fraction


def refusals(specs: Sequence[RuleSpec]) -> list[tuple[RuleSpec, RefuseGoodAtMost]]:
    """Rules with a refusal promise, in policy order."""
    return [(s, s.promise) for s in specs if isinstance(s.promise, RefuseGoodAtMost)]


def selectives(specs: Sequence[RuleSpec]) -> list[tuple[RuleSpec, ErrorWhenAcceptedAtMost]]:
    """Rules with a selective-risk promise, in policy order; calibrated after every refusal rule."""
    return [(s, s.promise) for s in specs if isinstance(s.promise, ErrorWhenAcceptedAtMost)]


def joints(specs: Sequence[RuleSpec]) -> list[tuple[RuleSpec, WrongAndAcceptedAtMost]]:
    """Rules about what is wrong and accepted, in policy order; calibrated after refusal rules, before selective-risk rules."""
    return [(s, s.promise) for s in specs if isinstance(s.promise, WrongAndAcceptedAtMost)]


def label_free(specs: Sequence[RuleSpec]) -> list[tuple[RuleSpec, RefuseGoodAtMost | StableAtContamination]]:
    """Rules of the first stage, in policy order: refusal promises and stability."""
    return [(s, s.promise) for s in specs if isinstance(s.promise, RefuseGoodAtMost | StableAtContamination)]


def check_policy(specs: Sequence[RuleSpec]) -> None:
    """Raises: ValueError when rules cannot stand in one policy, saying which and what to do."""
    if not specs:
        raise ValueError("policy: expected at least one rule, got none")
    names = [s.name for s in specs]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"policy: rule names must differ, got {sorted(twice)} more than once")
    units = {s.unit for s in specs}
    if "stream" in units and len(units) > 1:
        raise ValueError(
            "policy: stream rules judge another graph than row and group rules; use a monitor of their own"
        )
    whole = [s for s, _ in (*selectives(specs), *joints(specs)) if s.unit == "group"]
    if "row" in units and whole:
        raise ValueError(
            f"policy: {kind(whole[0].promise)} of a group rule needs group rules only, because a row rule refuses rows, "
            "not groups; give the row rules unit group"
        )
    stopped = [s.name for s, p in refusals(specs) if p.by == "early_stopping"]
    after = [s.name for s, _ in (*selectives(specs), *joints(specs))]
    if stopped and after:
        raise ValueError(
            f'policy: rule "{stopped[0]}" chooses its column on all calibration rows, so none is left to count errors on for '
            f'rule "{after[0]}"; use two monitors, or choose the column on other rows'
        )
    _check_columns(specs)


def _check_columns(specs: Sequence[RuleSpec]) -> None:
    for first in specs:
        for other in specs:
            shared = _shared(first, other)
            if shared and (first.unit, first.sliced) != (other.unit, other.sliced):
                raise ValueError(
                    f'rules "{first.name}" and "{other.name}" use column {shared!r} with different units or slices; '
                    "name two columns"
                )
    judged = [(s, p.good if isinstance(p, RefuseGoodAtMost) else "id") for s, p in label_free(specs)]
    for first, one in judged:
        for other, two in judged:
            shared = _shared(first, other)
            if shared and one != two:
                raise ValueError(
                    f'rules "{first.name}" and "{other.name}" use column {shared!r} with good: {one} and '
                    f"{two}, but a column has one calibration table; name two columns"
                )


def _shared(first: RuleSpec, other: RuleSpec) -> str | None:
    """A column that both may look at."""
    return next((column for column in first.columns if column in other.columns), None)


def levels(specs: Sequence[RuleSpec], total: Level | None) -> dict[str, Fraction]:
    """Alpha of each refusal rule by name: its own, or an equal share of what the policy's total leaves (Bonferroni).

    Raises: CalibrationRefused when a rule has neither, or the rules' own levels exceed the total.
    """
    own = {s.name: exact(p.alpha) for s, p in refusals(specs) if p.alpha is not None}
    sharing = [s.name for s, p in refusals(specs) if p.alpha is None]
    if total is None:
        if sharing:
            raise CalibrationRefused(
                "refuse_good_at_most has no level; write one, or a total for the policy", rule=sharing[0]
            )
        return own
    left = exact(total) - sum(own.values())
    if left < 0 or (sharing and left == 0):
        raise CalibrationRefused(
            f"the refusal rules promise {percent(sum(own.values(), start=exact(total) * 0))} of the policy's "
            f"refuse_good_at_most {percent(total)} and leave nothing to share; lower their levels or raise the total",
            rule=sharing[0] if sharing else next(iter(own)),
            supported=float(sum(own.values())),
        )
    return own | {name: left / len(sharing) for name in sharing}
