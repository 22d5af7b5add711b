"""What a rule may promise, and how a promise that the data cannot carry is refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from demur.detectors.reason import Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from demur.detectors.policy import Unit

Good = Literal["id", "correct"]
Level = float | Fraction


def exact(level: Level) -> Fraction:
    """The number a person wrote: 0.29 becomes 29/100, not the nearest binary float."""
    return level if isinstance(level, Fraction) else Fraction(Decimal(str(float(level))))


def _check_level(name: str, value: Level) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name}: expected a share strictly between 0 and 1, got {value}; 5 % is written 0.05")


class CalibrationRefused(ValueError):
    """The calibration data cannot carry a promise.

    `rule` names it; `rows_needed` is how many units (rows, groups or streams; after other rules, surviving ones) would be
    enough, None when no number would; `supported` is the smallest level in (0, 1) these units do carry, None when there is none.
    """

    def __init__(
        self, message: str, *, rule: str = "", rows_needed: int | None = None, supported: float | None = None
    ) -> None:
        super().__init__(f'rule "{rule}": {message}' if rule else message)
        self.rule = rule
        self.rows_needed = rows_needed
        self.supported = supported


@dataclass(frozen=True)
class RefuseGoodAtMost:
    """At most `alpha` of good units are refused: on average over calibration draws, or with `confidence` for this one.

    `alpha` None takes a Bonferroni share of the policy's total. `good` is "id" (every calibration unit) or "correct"
    (those the model answered correctly; needs losses).
    Raises: ValueError for a level outside (0, 1).
    """

    alpha: Level | None = None
    confidence: float | None = None
    good: Good = "id"

    def __post_init__(self) -> None:
        if self.alpha is not None:
            _check_level("refuse_good_at_most", self.alpha)
        if self.confidence is not None:
            _check_level("confidence", self.confidence)
        if self.good not in ("id", "correct"):
            raise ValueError(f'good: expected "id" or "correct", got {self.good!r}')


@dataclass(frozen=True)
class ErrorWhenAcceptedAtMost:
    """With `confidence` over the calibration draw, at most `risk` of what the whole policy accepts is wrong.

    Raises: ValueError for a level outside (0, 1).
    """

    risk: Level
    confidence: float = 0.95

    def __post_init__(self) -> None:
        _check_level("error_when_accepted_at_most", self.risk)
        _check_level("confidence", self.confidence)


Promise = RefuseGoodAtMost | ErrorWhenAcceptedAtMost


@dataclass(frozen=True)
class RuleSpec:
    """One rule before calibration: a score column, the unit it judges, the reason it gives and what it promises.

    Raises: ValueError for slices of anything but rows, for a sliced selective-risk promise, and for a reason that no
    calibrated rule may give (INVALID and UNAVAILABLE are found by the engine and do not count towards a promise).
    """

    name: str
    column: str
    reason: Reason
    promise: Promise
    unit: Unit = "row"
    sliced: bool = False

    def __post_init__(self) -> None:
        if self.unit not in ("row", "group", "stream"):
            raise ValueError(f'rule "{self.name}": unit: expected row, group or stream, got {self.unit!r}')
        if self.reason in (Reason.INVALID, Reason.UNAVAILABLE):
            raise ValueError(f'rule "{self.name}": {self.reason.name} is never the reason of a calibrated rule')
        if self.sliced and self.unit != "row":
            raise ValueError(f'rule "{self.name}": slices are predicted classes of rows, but the unit is {self.unit}')
        if self.sliced and isinstance(self.promise, ErrorWhenAcceptedAtMost):
            raise ValueError(
                f'rule "{self.name}": error_when_accepted_at_most is promised for the whole policy, not by slice; '
                "remove `sliced` or promise refuse_good_at_most"
            )


def _plain(promise: Promise) -> dict[str, str]:
    if isinstance(promise, ErrorWhenAcceptedAtMost):
        return {"error_when_accepted_at_most": str(exact(promise.risk)), "confidence": str(exact(promise.confidence))}
    return {
        "refuse_good_at_most": "share" if promise.alpha is None else str(exact(promise.alpha)),
        "confidence": "" if promise.confidence is None else str(exact(promise.confidence)),
        "good": promise.good,
    }


def policy_digest(specs: Sequence[RuleSpec], refuse_good_at_most: Level | None = None) -> str:
    """SHA-256 (hex) of the ordered rules and the policy's total.

    A selective-risk promise holds only for the policy it was calibrated under, so a loader compares this digest and
    refuses a bundle whose rules were edited afterwards.
    """
    rules = [
        {
            "name": s.name,
            "column": s.column,
            "reason": int(s.reason),
            "unit": s.unit,
            "sliced": s.sliced,
            "promise": _plain(s.promise),
        }
        for s in specs
    ]
    total = "" if refuse_good_at_most is None else str(exact(refuse_good_at_most))
    document = {"version": 1, "rules": rules, "refuse_good_at_most": total}
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
