"""Good and bad units at each distinct score: all that a ranking metric needs, with ties grouped by construction."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from demur.monitor.evaluate.errors import EvaluationError

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Counts:
    """How many good and bad units have each of K distinct scores; a unit is flagged at a threshold when its score is
    at or above it, and accepted when its score is at or below it.

    scores (K,) float64 ascending. good, bad (K,) or (K, B) float64 whole numbers; B columns are B resamples, and every
    metric then returns (B,). A metric that is undefined for a column (no good or no bad unit) is NaN there.
    """

    scores: Values
    good: Values
    bad: Values

    @classmethod
    def of(cls, scores: ArrayLike, bad: ArrayLike) -> Counts:
        """From one score and one truth for each unit: scores (N,), any sign of infinity; bad (N,) of 0 and 1.

        Raises: EvaluationError for NaN, unequal or empty arrays, a truth other than 0 and 1, or only one class.
        """
        counts = cls.of_one_class(scores, bad)
        for name, array in (("bad", counts.bad), ("good", counts.good)):
            if not array.sum():
                raise EvaluationError(
                    f"expected good and bad units, got {len(np.asarray(bad))} units, none of them {name}; "
                    "a ranking of one class says nothing"
                )
        return counts

    @classmethod
    def of_one_class(cls, scores: ArrayLike, bad: ArrayLike) -> Counts:
        """As `of`, but all units may be good, or all bad: selective risk is defined there, a ranking is not.

        Raises: EvaluationError.
        """
        values, truth = checked_scores(scores), np.asarray(bad)
        if truth.shape != values.shape:
            raise EvaluationError(f"bad: expected {values.shape} as scores, got {truth.shape}; give one for each unit")
        if not np.isin(truth, (0, 1)).all():
            raise EvaluationError("bad: expected 0 (good) and 1 (bad) only; decide what counts as bad first")
        distinct, index = np.unique(values, return_inverse=True)
        of_bad, every = np.zeros(len(distinct)), np.zeros(len(distinct))
        np.add.at(of_bad, index, truth)
        np.add.at(every, index, 1.0)
        return cls(distinct, every - of_bad, of_bad)

    @classmethod
    def summed(cls, scores: Values, good: Values, bad: Values, good_accepted: Values, bad_accepted: Values) -> Counts:
        """Of counts whose running sums are known already."""
        counts = cls(scores, good, bad)
        counts.__dict__.update(good_accepted=good_accepted, bad_accepted=bad_accepted)
        return counts

    def present(self) -> Counts:
        """Only the scores that some unit has; (K,) counts."""
        some = (self.good + self.bad) > 0
        return Counts(self.scores[some], self.good[some], self.bad[some])

    @cached_property
    def good_total(self) -> Any:
        """Good units: () or (B,)."""
        return self.good.sum(axis=0)

    @cached_property
    def bad_total(self) -> Any:
        """Bad units: () or (B,)."""
        return self.bad.sum(axis=0)

    @cached_property
    def good_accepted(self) -> Values:
        """Good units at or below each score, shape of `good`."""
        return np.asarray(np.cumsum(self.good, axis=0))

    @cached_property
    def bad_accepted(self) -> Values:
        """Bad units at or below each score, shape of `bad`."""
        return np.asarray(np.cumsum(self.bad, axis=0))

    @cached_property
    def good_flagged(self) -> Values:
        """Good units at or above each score, shape of `good`."""
        return np.asarray(self.good_total - self.good_accepted + self.good)

    @cached_property
    def bad_flagged(self) -> Values:
        """Bad units at or above each score, shape of `bad`."""
        return np.asarray(self.bad_total - self.bad_accepted + self.bad)


def checked_scores(scores: ArrayLike) -> Values:
    """(N,) float64. Raises: EvaluationError when empty, not one-dimensional, or holding NaN."""
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or not values.size:
        raise EvaluationError(f"scores: expected (N,) with at least one unit, got shape {values.shape}")
    missing = int(np.isnan(values).sum())
    if missing:
        raise EvaluationError(
            f"scores: expected numbers, got NaN for {missing} of {len(values)} units (first: unit "
            f"{int(np.isnan(values).argmax())}); a unit without a score is an abstention: count it apart and leave it out"
        )
    return values


def both(counts: Counts, value: Any) -> Any:
    """The value where there are good and bad units, NaN elsewhere."""
    return np.where((counts.good_total > 0) & (counts.bad_total > 0), value, np.nan)


def share(part: Any, whole: Any) -> Any:
    """The ratio in float64, NaN where the whole is empty."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.divide(part, whole, dtype=np.float64)
