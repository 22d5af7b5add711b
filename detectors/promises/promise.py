"""What a rule may promise, and how a promise that the data cannot carry is refused."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, get_args

from demur.detectors.reason import Reason

if TYPE_CHECKING:
    from demur.detectors.policy import Unit

Good = Literal["id", "correct"]
Level = float | Fraction
RefusalBy = Literal["split", "simes", "asymptotic", "neyman_pearson", "early_stopping"]
SelectiveBy = Literal["sgr", "fixed_sequence", "learn_then_test"]
ControlBy = Literal["binomial", "betting"]
DEFAULT_STARTS = 3
DEFAULT_TAIL_NATS = 32.0
_MOST_STARTS = 64
_MOST_TAIL_NATS = 700.0  # e^-745 is the smallest float64
_MOST_CONTAMINATION = 0.5
MOST_ASYMPTOTIC = (
    0.95  # above, its bounds miss more than said: 1.2 % of draws at 0.99, 0.3 % at 0.999 (n = 400 to 5,000)
)


def exact(level: Level) -> Fraction:
    """The number a person wrote: 0.29 becomes 29/100, not the nearest binary float."""
    return level if isinstance(level, Fraction) else Fraction(Decimal(str(float(level))))


def _check_level(name: str, value: Level) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name}: expected a share strictly between 0 and 1, got {value}; 5 % is written 0.05")


def _check_by(value: str, known: Any) -> None:
    if value not in get_args(known):
        raise ValueError(f"by: expected one of {', '.join(get_args(known))}, got {value!r}")


class CalibrationRefused(ValueError):
    """The calibration data cannot carry a promise.

    `rule` names it; `rows_needed` is how many units (rows, groups or streams; after other rules, surviving ones) would be
    enough, None when no number would, `rows` how many of these there are; `supported` is the smallest level in (0, 1) they do
    carry, None when there is none.
    """

    def __init__(
        self,
        message: str,
        *,
        rule: str = "",
        rows_needed: int | None = None,
        supported: float | None = None,
        rows: int | None = None,
    ) -> None:
        super().__init__(f'rule "{rule}": {message}' if rule else message)
        self.rule = rule
        self.rows_needed = rows_needed
        self.supported = supported
        self.rows = rows

    def adding(self, said: str) -> CalibrationRefused:
        """The same, with more said."""
        more = CalibrationRefused(
            f"{self}{said}", rows_needed=self.rows_needed, supported=self.supported, rows=self.rows
        )
        more.rule = self.rule
        return more


@dataclass(frozen=True)
class RefuseGoodAtMost:
    """At most `alpha` of good units are refused: on average over calibration draws, or with `confidence` for this one.

    `alpha` None takes a Bonferroni share of the policy's total. `good` is "id" (every calibration unit) or "correct"
    (those the model answered correctly; needs losses). `by` is the theorem: split conformal p-values, or with `confidence`
    the exact tolerance limit ("split"); p-values that hold at every level at once for this calibration ("simes", "asymptotic");
    the umbrella rule, whose power on labelled outliers is reported ("neyman_pearson"); split p-values of a column that was chosen
    on the same rows, `scores.stopping`, which hold on average and say nothing of this calibration ("early_stopping").
    Raises: ValueError for a level outside (0, 1), or a `by` that needs a confidence and has none, or the other way round.
    """

    alpha: Level | None = None
    confidence: float | None = None
    good: Good = "id"
    by: RefusalBy = "split"

    def __post_init__(self) -> None:
        if self.alpha is not None:
            _check_level("refuse_good_at_most", self.alpha)
        if self.confidence is not None:
            _check_level("confidence", self.confidence)
        if self.good not in ("id", "correct"):
            raise ValueError(f'good: expected "id" or "correct", got {self.good!r}')
        _check_by(self.by, RefusalBy)
        if self.by == "early_stopping" and (self.confidence is not None or self.good != "id"):
            raise ValueError(
                "early stopping on the calibration rows promises an average over all of them; leave out confidence and good"
            )
        if self.by not in ("split", "early_stopping") and self.confidence is None:
            raise ValueError(f"by: {self.by} is a promise for this calibration draw; add a confidence, for example 0.9")
        if self.by == "asymptotic" and self.confidence is not None and self.confidence > MOST_ASYMPTOTIC:
            raise ValueError(
                f"by: asymptotic is expected with a confidence of at most {MOST_ASYMPTOTIC}, got {self.confidence}; simes is exact"
            )


@dataclass(frozen=True)
class ErrorWhenAcceptedAtMost:
    """With `confidence` over the calibration draw, at most `risk` of what the whole policy accepts is wrong.

    `by` searches the threshold: SGR's binary search, a fixed sequence walked from `starts` places, or Learn-then-Test on a
    grid with Holm's correction. Raises: ValueError for a level outside (0, 1), or `starts` outside 1..64.
    """

    risk: Level
    confidence: float = 0.95
    by: SelectiveBy = "sgr"
    starts: int = DEFAULT_STARTS

    def __post_init__(self) -> None:
        _check_level("error_when_accepted_at_most", self.risk)
        _check_level("confidence", self.confidence)
        _check_by(self.by, SelectiveBy)
        if not 1 <= self.starts <= _MOST_STARTS:
            raise ValueError(f"starts: expected 1 to {_MOST_STARTS}, got {self.starts}")


@dataclass(frozen=True)
class WrongAndAcceptedAtMost:
    """At most `alpha` of all inputs are wrong and accepted by the whole policy: on average over calibration draws (conformal
    risk control), or with `confidence` for this one (risk-controlling prediction sets) by an exact or a betting bound.

    Raises: ValueError for a level outside (0, 1).
    """

    alpha: Level
    confidence: float | None = None
    by: ControlBy = "binomial"

    def __post_init__(self) -> None:
        _check_level("wrong_and_accepted_at_most", self.alpha)
        if self.confidence is not None:
            _check_level("confidence", self.confidence)
        _check_by(self.by, ControlBy)
        if self.by == "betting" and self.confidence is None:
            raise ValueError("by: betting is a promise for this calibration draw; add a confidence, for example 0.9")


@dataclass(frozen=True)
class StableAtContamination:
    """Accepts only scores that calibration sets of this size, of which a share `gamma` is anomalous, agree to call normal.

    `tail_nats` is T: the call flips under another calibration draw with probability below e^-T.
    Raises: ValueError for a gamma outside (0, 0.5), or T outside [1, 700].
    """

    gamma: Level
    tail_nats: float = DEFAULT_TAIL_NATS

    def __post_init__(self) -> None:
        if not 0 < self.gamma < _MOST_CONTAMINATION:
            raise ValueError(f"stable_at_contamination: expected a share between 0 and 0.5, got {self.gamma}")
        if not 1 <= self.tail_nats <= _MOST_TAIL_NATS:
            raise ValueError(f"tail_nats: expected 1 to {_MOST_TAIL_NATS:.0f}, got {self.tail_nats}; the default is 32")


Promise = RefuseGoodAtMost | ErrorWhenAcceptedAtMost | WrongAndAcceptedAtMost | StableAtContamination


@dataclass(frozen=True)
class RuleSpec:
    """One rule before calibration: a score column, the unit it judges, the reason it gives and what it promises.

    `sliced` promises for each slice apart: the predicted class by True, else the codes that the sample has under that name.
    With `candidates`, calibration puts the column among them in place of `column` that refuses most labelled outliers.
    Raises: ValueError for slices of anything but rows, for a sliced selective-risk promise, for candidates without a promise
    by neyman_pearson, and for a reason that no calibrated rule may give (INVALID and UNAVAILABLE are found by the engine and
    do not count towards a promise).
    """

    name: str
    column: str
    reason: Reason
    promise: Promise
    unit: Unit = "row"
    sliced: bool | str = False
    candidates: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column it may look at."""
        return self.candidates or (self.column,)

    def __post_init__(self) -> None:
        if self.unit not in ("row", "group", "stream"):
            raise ValueError(f'rule "{self.name}": unit: expected row, group or stream, got {self.unit!r}')
        if self.reason in (Reason.INVALID, Reason.UNAVAILABLE):
            raise ValueError(f'rule "{self.name}": {self.reason.name} is never the reason of a calibrated rule')
        if self.sliced and self.unit != "row":
            raise ValueError(f'rule "{self.name}": slices are of rows, but the unit is {self.unit}')
        if self.sliced and not isinstance(self.promise, RefuseGoodAtMost):
            raise ValueError(
                f'rule "{self.name}": {kind(self.promise)} is promised for the whole policy, not by slice; '
                "remove its slice or promise refuse_good_at_most"
            )
        if self.candidates:
            self._check_candidates()
        if isinstance(self.promise, RefuseGoodAtMost) and self.promise.by == "early_stopping":
            self._check_stopping()

    def _check_stopping(self) -> None:
        if self.unit != "row" or self.sliced:
            raise ValueError(
                f'rule "{self.name}": early stopping on the calibration rows is for all rows alike; remove the unit, or slices'
            )

    def _check_candidates(self) -> None:
        if len(set(self.candidates)) < len(self.candidates) or self.column not in self.candidates:
            raise ValueError(
                f'rule "{self.name}": expected different columns to choose from, got {list(self.candidates)}'
            )
        if not isinstance(self.promise, RefuseGoodAtMost) or self.promise.by != "neyman_pearson":
            raise ValueError(
                f'rule "{self.name}": only refuse_good_at_most by: neyman_pearson chooses among columns; name one column, or '
                "fuse them"
            )
        if self.sliced:
            raise ValueError(f'rule "{self.name}": a choice among columns is made for all rows; remove its slice')


KINDS: dict[type[Promise], str] = {
    RefuseGoodAtMost: "refuse_good_at_most",
    ErrorWhenAcceptedAtMost: "error_when_accepted_at_most",
    WrongAndAcceptedAtMost: "wrong_and_accepted_at_most",
    StableAtContamination: "stable_at_contamination",
}


def kind(promise: Promise) -> str:
    """The key that configurations use for it."""
    return KINDS[type(promise)]
