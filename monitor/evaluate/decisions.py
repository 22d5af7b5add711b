"""What accepting and refusing came to: confusion counts and every number that is read off them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from demur.monitor.evaluate.errors import EvaluationError


@dataclass(frozen=True)
class Decisions:
    """Units by whether the model was right and whether they were accepted. Undefined ratios are NaN.

    A unit *should be refused* when the model is wrong on it; novel inputs are always wrong.
    """

    right_accepted: int
    wrong_accepted: int
    right_refused: int
    wrong_refused: int

    @classmethod
    def of(cls, accept: ArrayLike, wrong: ArrayLike) -> Decisions:
        """From one decision and one truth for each unit, (N,) each. Raises: EvaluationError for unequal shapes."""
        accepted, bad = np.asarray(accept, np.bool_), np.asarray(wrong, np.bool_)
        if accepted.shape != bad.shape:
            raise EvaluationError(f"wrong: expected {accepted.shape} as accept, got {bad.shape}")
        cells = [accepted & ~bad, accepted & bad, ~accepted & ~bad, ~accepted & bad]
        return cls(*(int(np.count_nonzero(cell)) for cell in cells))

    def __add__(self, other: Decisions) -> Decisions:
        return Decisions(
            self.right_accepted + other.right_accepted,
            self.wrong_accepted + other.wrong_accepted,
            self.right_refused + other.right_refused,
            self.wrong_refused + other.wrong_refused,
        )

    @property
    def units(self) -> int:
        return self.accepted + self.right_refused + self.wrong_refused

    @property
    def accepted(self) -> int:
        return self.right_accepted + self.wrong_accepted

    @property
    def wrong(self) -> int:
        return self.wrong_accepted + self.wrong_refused

    @property
    def coverage(self) -> float:
        """Share accepted, in [0, 1]."""
        return ratio(self.accepted, self.units)

    @property
    def selective_risk(self) -> float:
        """Share of the accepted that is wrong, in [0, 1], lower is better; 1 - NRA."""
        return ratio(self.wrong_accepted, self.accepted)

    @property
    def safety_gain(self) -> float:
        """P(refused and wrong), in [0, 1], higher is better: hazards that the monitor removed (Guérin et al. 2022)."""
        return ratio(self.wrong_refused, self.units)

    @property
    def residual_hazard(self) -> float:
        """P(accepted and wrong), in [0, 1], lower is better: hazards that are left. Gain + hazard = P(wrong)."""
        return ratio(self.wrong_accepted, self.units)

    @property
    def availability_cost(self) -> float:
        """P(refused and right), in [0, 1], lower is better: good answers that were withheld."""
        return ratio(self.right_refused, self.units)

    @property
    def precision(self) -> float:
        """Share of the refused that should be refused, in [0, 1], higher is better."""
        return ratio(self.wrong_refused, self.wrong_refused + self.right_refused)

    @property
    def recall(self) -> float:
        """Share of what should be refused that is, in [0, 1], higher is better."""
        return ratio(self.wrong_refused, self.wrong)

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN) with refusing as positive, in [0, 1], higher is better."""
        hits = 2 * self.wrong_refused
        return ratio(hits, hits + self.right_refused + self.wrong_accepted)

    @property
    def mcc(self) -> float:
        """Matthews correlation of refused with wrong, in [-1, 1], higher is better; NaN when a margin is empty."""
        hit, false, miss, right = self.wrong_refused, self.right_refused, self.wrong_accepted, self.right_accepted
        margins = (hit + false) * (hit + miss) * (right + false) * (right + miss)
        return (hit * right - false * miss) / math.sqrt(margins) if margins else math.nan

    @property
    def nra(self) -> float:
        """Non-rejected accuracy |right and accepted| / |accepted|, in [0, 1], higher is better (Condessa et al. 2017)."""
        return ratio(self.right_accepted, self.accepted)

    @property
    def cq(self) -> float:
        """Classification quality: share of units either right and accepted or wrong and refused, in [0, 1], higher is better."""
        return ratio(self.right_accepted + self.wrong_refused, self.units)

    @property
    def rq(self) -> float:
        """Rejection quality: odds of wrong among the refused over the odds among all; above 1 beats chance.

        Range: [0, inf]; infinite when only wrong units are refused, NaN when nothing is refused, wrong, or right.
        """
        right = self.right_accepted + self.right_refused
        if not (self.wrong and right and self.wrong_refused + self.right_refused):
            return math.nan
        if not self.right_refused:
            return math.inf
        return (self.wrong_refused / self.right_refused) / (self.wrong / right)


def ratio(part: float, whole: float) -> float:
    """The ratio, NaN when the whole is empty."""
    return part / whole if whole else math.nan
