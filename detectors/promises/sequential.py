"""Selective risk by testing hypotheses "the risk at this threshold exceeds r" with exact binomial p-values.

Both ways pay for many thresholds with one delta: a fixed sequence stops at its first failure, Holm's correction takes the
thresholds of a grid in the order of their p-values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import betaincc

from demur.detectors.promises import binomial
from demur.detectors.promises.selective import Selection

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from demur.detectors.promises.selective import Prefixes

GRID = 20  # of 20, 50 and 100 places, the widest acceptance on real answers (tests/test_simulators_selective.py)


def risk_p_values(wrong: NDArray[np.int64], trials: NDArray[np.int64], risk: float) -> NDArray[np.float64]:
    """P(Bin(trials, risk) <= wrong): the p-value of "at least a share `risk` of what this threshold accepts is wrong".

    Shapes: (D,), (D,) -> (D,) in (0, 1]. Source: Angelopoulos, Bates, Candes, Jordan & Lei 2021, arXiv:2110.01052; for losses in
    {0, 1} the exact tail takes the place of their Hoeffding-Bentkus bound.
    """
    some = wrong < trials
    tail: NDArray[np.float64] = betaincc(wrong + 1, np.where(some, trials - wrong, 1), risk)
    return np.where(some, tail, 1.0)


@dataclass(frozen=True)
class FixedSequence:
    """Walks up the distinct scores from each of `starts` places, delta / starts each, until a test fails.

    A walk from the first score sticks on a few confident errors, hence several starts, at fixed shares of the rows between
    the fewest that could pass and all. Proven when the true risk does not fall as the threshold rises, as SGR's search is.
    Source: Bauer 1991 (fixed sequence); several starts as in Angelopoulos et al. 2021, arXiv:2110.01052.
    """

    starts: int

    def tests(self, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
        """How many ways delta is split, for tables of so many thresholds."""
        return np.full_like(thresholds, self.starts)

    def select(self, counts: Prefixes, risk: float, delta: float) -> Selection | None:
        """The highest threshold that some walk reaches; None when every walk fails at once."""
        level = delta / self.starts
        passed = risk_p_values(counts.wrong, counts.accepted, risk) <= level
        ends = [_walk(passed, start) for start in self.places(counts, risk, delta)]
        if not ends or max(ends) < 0:
            return None
        return _selection(counts, max(ends), 0, level, self.starts)

    def places(self, counts: Prefixes, risk: float, delta: float) -> list[int]:
        """Where walks begin, as indices of distinct scores; none when even an errorless table is too small."""
        fewest = binomial.trials_for_zero_errors(risk, delta / self.starts)
        if fewest > counts.rows:
            return []
        at = fewest + np.arange(self.starts) * (counts.rows - fewest) // self.starts
        return sorted(set(np.searchsorted(counts.accepted, at).tolist()))

    def smallest_supported(self, counts: Prefixes, delta: float) -> float | None:
        """A risk for which some walk gets a step, the smallest to a thousandth; places move with the risk, so one above may fail."""
        low, high = 0.0, 1.0
        while high - low > 1e-3 * high:
            middle = (low + high) / 2
            low, high = (low, middle) if self.select(counts, middle, delta) else (middle, high)
        return high if high < 1 else None


@dataclass(frozen=True)
class LearnThenTest:
    """Tests `grid` thresholds at fixed shares of the rows, and accepts up to the highest that Holm's correction passes.

    The row at a threshold counts as an error at most, never as a trial: given its score the others below it are independent,
    so each p-value is valid whatever the shape of the risk, monotone or not.
    Source: Angelopoulos et al. 2021, arXiv:2110.01052; Holm 1979.
    """

    grid: int = GRID

    def tests(self, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
        """How many ways delta is split for the first test, which must pass for any to."""
        return np.full_like(thresholds, self.grid)

    def select(self, counts: Prefixes, risk: float, delta: float) -> Selection | None:
        """The highest threshold among those rejected; None when there is none."""
        at = self.places(counts)
        p = risk_p_values(counts.wrong[at], counts.accepted[at] - 1, risk)
        order = np.argsort(p, kind="stable")
        levels = delta / (self.grid - np.arange(at.size))
        failed = np.flatnonzero(p[order] > levels)
        rejected = order[: failed[0]] if failed.size else order
        if not rejected.size:
            return None
        chosen = int(rejected.max())
        return _selection(counts, int(at[chosen]), 1, float(levels[np.flatnonzero(order == chosen)[0]]), self.grid)

    def places(self, counts: Prefixes) -> NDArray[np.int64]:
        """Indices of the distinct scores at 1/grid, 2/grid, ... of the rows."""
        rows = -(-np.arange(1, self.grid + 1) * counts.rows // self.grid)
        places: NDArray[np.int64] = np.unique(np.searchsorted(counts.accepted, rows)) if counts.rows else rows[:0]
        return places

    def smallest_supported(self, counts: Prefixes, delta: float) -> float | None:
        """The smallest risk for which some threshold passes Holm's first step."""
        at = self.places(counts)
        bounds = [_bound(counts, int(i), 1, delta / self.grid) for i in at]
        least = min(bounds, default=1.0) * (1 + 1e-9)
        return least if least < 1 else None


def _walk(passed: NDArray[np.bool_], start: int) -> int:
    """The last index of the unbroken run of passes from `start`; -1 when it fails at once."""
    failed = np.flatnonzero(~passed[start:])
    end = start + (int(failed[0]) if failed.size else passed.size - start) - 1
    return end if end >= start else -1


def _bound(counts: Prefixes, index: int, held_back: int, level: float) -> float:
    trials = int(counts.accepted[index]) - held_back
    return binomial.upper(min(int(counts.wrong[index]), trials), trials, level) if trials > 0 else 1.0


def _selection(counts: Prefixes, index: int, held_back: int, level: float, steps: int) -> Selection:
    accepted, wrong = int(counts.accepted[index]), int(counts.wrong[index])
    return Selection(counts.thresholds[index], accepted, wrong, _bound(counts, index, held_back, level), steps)
