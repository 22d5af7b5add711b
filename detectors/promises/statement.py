"""The printed forms of promises, and no others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from demur.detectors.promises.binomial import interval
from demur.detectors.promises.neyman_pearson import power_level
from demur.detectors.promises.theorems import THEOREMS
from demur.detectors.promises.wording import decimal, listed, percent, percent_down, percent_up

if TYPE_CHECKING:
    from demur.detectors.policy import Unit
    from demur.detectors.promises.neyman_pearson import Power
    from demur.detectors.promises.promise import Good, Level
    from demur.detectors.promises.stability import Stability

BUNDLE_CONFIDENCE = 0.95
GRADED = "losses lie between 0 and 1"  # in the sentence of a promise about such losses, and in no other


@dataclass(frozen=True)
class Statement:
    """What one rule promises.

    `level` is alpha or the risk; `confidence` is None for a promise that holds on average over calibration draws, `bound`
    then holds for this bundle with 95 % confidence. `n` counts calibration units, or survivors for selective risk. `tried`
    is a stricter risk that `n` survivors did not support and `tried_needs` about how many would (None: no number would). `by`
    names the theorem; `power` counts the labelled outliers refused, and all of them, `compared` those of every column that
    this one was chosen from; `slices` and `pooled` are values of `sliced_by`, `others` says what becomes of unknown ones; `graded` losses are not only 0 and 1; `stability` is RejEx's account.
    """

    rule: str
    kind: Literal["marginal", "tolerance", "selective", "joint", "stable"]
    unit: Unit
    level: Level
    confidence: float | None
    n: int
    bound: float
    good: Good = "id"
    clustered: bool = False
    slices: tuple[int, ...] = ()
    pooled: tuple[int, ...] = ()
    tried: Level | None = None
    tried_needs: int | None = None
    by: str = "split"
    power: tuple[int, int] | None = None
    compared: tuple[Power, ...] = ()
    graded: bool = False
    sliced_by: str = ""
    others: Literal["", "pooled", "unavailable"] = ""
    stability: Stability | None = None

    @property
    def text(self) -> str:
        """The statement as printed, one paragraph."""
        if self.kind == "selective":
            return " ".join(filter(None, (self._selective(), self._tried(), self._wrong_unit(), self._weights())))
        if self.kind == "joint":
            return " ".join(filter(None, (self._joint(), self._wrong_unit(), self._weights())))
        if self.kind == "stable":
            return self._stable()
        return " ".join(filter(None, (self._refusal(), self._slices(), self._weights(), self._power())))

    @property
    def theorem(self) -> str:
        """What proves the statement, in words."""
        if self.kind == "marginal" and self.clustered and self.unit == "row":
            return (
                "conformal risk control over groups (Angelopoulos et al. 2024), bounded for this bundle by Bentkus 2004"
            )
        if self.kind == "tolerance" and self.by == "split" and self.clustered and self.unit == "row":
            return "the binomial tolerance limit over groups (Bentkus 2004)"
        among = f" among {len(self.compared)} columns" if self.compared else ""
        return THEOREMS[self.kind, self.by] + among

    @property
    def units(self) -> str:
        """How many units it was calibrated on."""
        nouns = surviving(self.unit, clustered=self.clustered)
        return f"{self.n} {'surviving ' if self.kind == 'selective' else ''}{nouns if self.n != 1 else nouns[:-1]}"

    def _refusal(self) -> str:
        start = f"For traffic exchangeable with the calibration data, refuses at most {percent(self.level)} of {self._good()}"
        where = f" in each listed {self.sliced_by}" if self.slices else ""
        bundle = f"for this bundle (n = {self.n}{self._counted()})"
        if self.kind == "tolerance":
            every = ", at this and every other level at once" if self.by in ("simes", "asymptotic") else ""
            alone = f" for each {self._slice_noun()} alone" if self.slices else ""
            return f"{start}{where} {bundle}, with {self._confidence()} confidence over the calibration draw{alone}{every}."
        if self.by == "early_stopping":
            return (
                f"{start} on average over calibration draws (n = {self.n}), although the same rows choose the column: each input "
                "joins the choice. For this bundle alone no rate is promised."
            )
        alone = " in each of them" if self.slices else ""
        return (
            f"{start}{where} on average over calibration draws; {bundle} the rate is at most {percent_up(self.bound)} "
            f"with {percent(BUNDLE_CONFIDENCE, 0)} confidence{alone}."
        )

    def _selective(self) -> str:
        return (
            f"With {self._confidence()} confidence over the calibration draw, among inputs like the calibration data that "
            f"the whole policy accepts, at most {percent(self.level)} are wrong."
        )

    def _joint(self) -> str:
        if self.graded:
            return self._mean_loss()
        what = f"at most {percent(self.level)} of {{}} are wrong and accepted by the whole policy"
        noun = {"row": "inputs", "group": "groups", "stream": "streams"}[self.unit]
        count = f"(n = {self.n}{self._counted()})"
        if self.confidence is None:
            traffic = f"For traffic exchangeable with the calibration data, {what.format(f'all {noun}')}"
            return f"{traffic}, on average over calibration draws {count}."
        like = what.format(f"all {noun} like the calibration data")
        return f"With {self._confidence()} confidence over the calibration draw, {like} {count}."

    def _mean_loss(self) -> str:
        noun = {"row": "inputs", "group": "groups", "stream": "streams"}[self.unit]
        count = f"(n = {self.n}{self._counted()}; {GRADED})"
        if self.confidence is None:
            return (
                f"For traffic exchangeable with the calibration data, the loss of {noun} that the whole policy accepts, averaged "
                f"over all {noun}, is at most {decimal(self.level)} on average over calibration draws {count}."
            )
        return (
            f"With {self._confidence()} confidence over the calibration draw, the loss of {noun} that the whole policy accepts, "
            f"averaged over all {noun} like the calibration data, is at most {decimal(self.level)} {count}."
        )

    def _stable(self) -> str:
        found = self.stability
        assert found is not None  # noqa: S101 - INVARIANT: a stable statement has its account
        noun = {"row": "inputs", "group": "groups", "stream": "streams"}[self.unit]
        return (
            f"Taking {percent(self.level)} of the calibration data as anomalous, accepts only {noun} whose call is stable: by this draw "
            f"(n = {self.n}{self._counted()}) another one would call them anomalous with probability below e^-{found.tail_nats:g}, "
            f"and over both draws with probability at most {found.flip:.1e}. Of traffic exchangeable with the calibration data an expected {100 * found.refused:.1f} % is "
            f"refused: {100 * found.anomalous:.1f} % as anomalous, {100 * found.rate:.1f} % because the call is not stable (at most "
            f"{percent_up(self.bound)} with 90 % confidence). Expected cost at most {found.cost_upper:.3f} a unit, "
            f"counting 1 for a false alarm, 1 for a miss and {float(self.level):g} for a refusal."
        )

    def _power(self) -> str:
        if self.power is None:
            return "No labelled outliers were given: its power is not known." if self.by == "neyman_pearson" else ""
        refused, n = self.power
        low, high = interval(refused, n, power_level(len(self.compared) or 1, BUNDLE_CONFIDENCE))
        return self._chosen() + (
            f"Of the {n} labelled outliers {100 * refused / n:.1f} % are refused "
            f"({percent(BUNDLE_CONFIDENCE, 0)} interval {percent_down(low)} to {percent_up(high)} for outliers like them)."
        )

    def _chosen(self) -> str:
        if not self.compared:
            return ""
        powers = listed([f"{p.score} {100 * p.share:.1f} %" for p in self.compared])
        best = max(self.compared, key=lambda p: p.share).score
        return (
            f"{best} was chosen for refusing most labelled outliers, among {powers}; the promise pays for all of them. "
        )

    def _tried(self) -> str:
        if self.tried is None:
            return ""
        units = surviving(self.unit, clustered=self.clustered)
        needs = "no number of them would do" if self.tried_needs is None else f"needs about {self.tried_needs}"
        return f"({percent(self.tried)} was tried: not supported by {self.n} surviving {units}; {needs}.)"

    def _wrong_unit(self) -> str:
        if self.graded and self.unit != "row":
            part = "rows" if self.unit == "group" else "steps"
            return f"The loss of a {self.unit} is the largest of its {part}'."
        return "A group is wrong when any of its rows is." if self.unit == "group" else ""

    def _slices(self) -> str:
        if not self.slices and not self.pooled:
            return ""
        own = (
            f"Listed: {listed([str(c) for c in self.slices])}."
            if self.slices
            else f"No {self._slice_noun()} is listed."
        )
        if self.pooled:
            few = listed([str(c) for c in self.pooled])
            own += f" Too few rows in {few}: the pooled table is used, nothing is promised there."
        if self.others == "pooled":
            own += f" For any other {self.sliced_by} the pooled table is used, nothing is promised there."
        if self.others == "unavailable":
            own += f" Any other {self.sliced_by} is UNAVAILABLE."
        return own

    def _slice_noun(self) -> str:
        return "class" if self.sliced_by == "predicted class" else self.sliced_by

    def _weights(self) -> str:
        if not self.clustered or self.unit != "row":
            return ""
        if self.kind == "selective":
            return "Rows weigh 1 / group size: one row was drawn from each group."
        return "Rows weigh 1 / group size; n counts groups."

    def _good(self) -> str:
        noun = {"row": "inputs", "group": "groups", "stream": "streams"}[self.unit]
        return f"good {noun}" if self.good == "id" else f"good {noun} (those the model answers correctly)"

    def _counted(self) -> str:
        if self.clustered and self.unit == "row":
            return " groups"
        return {"row": "", "group": " groups", "stream": " streams"}[self.unit]

    def _confidence(self) -> str:
        return percent(BUNDLE_CONFIDENCE if self.confidence is None else self.confidence, 0)


UNDER_LINES: tuple[str, ...] = (
    "Not promised under drift or for novel inputs.",
    "Averages hide slices: a class, a source or a time of day may be refused, or wrong, more often.",
    "Confidence is per calibration: it counts calibrations, not inputs.",
    "INVALID and UNAVAILABLE do not count towards a promise.",
)


def surviving(unit: Unit, *, clustered: bool) -> str:
    """What survivors are counted in."""
    return "groups" if unit == "group" or (clustered and unit == "row") else f"{unit}s"
