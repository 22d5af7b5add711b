"""Selection with guaranteed risk (SGR): the widest acceptance whose error rate is proven to be at most a given risk."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from scipy.special import betaincc

from demur.detectors.promises import binomial

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PREFIXES_TRIED = 64
_MOST_GROWTH = 1000.0
GRADES = 2**32


@dataclass(frozen=True)
class Selection:
    """Accept exactly score <= threshold: `wrong` of `accepted` rows were wrong, `bound` is the exact upper bound used."""

    threshold: np.float32
    accepted: int
    wrong: int
    bound: float
    steps: int


@dataclass(frozen=True)
class Prefixes:
    """Accepted rows and errors among them at each distinct score, ascending: (D,) each, so ties are never split.

    `wrong` counts in parts of 1 / scale: errors, or for graded losses the sum of each rounded up to 2^-32, which is a whole
    number and no less. `losses` (n,) are those of the rows, by rising score.
    """

    thresholds: NDArray[np.float32]
    accepted: NDArray[np.int64]
    wrong: NDArray[np.int64]
    losses: NDArray[np.float64]
    scale: int = 1

    @property
    def rows(self) -> int:
        return int(self.accepted[-1]) if self.accepted.size else 0

    @property
    def steps(self) -> int:
        """The most steps a binary search over D thresholds and "accept nothing" can take: over so many delta is split."""
        return self.thresholds.size.bit_length()


class Method(Protocol):
    """A way to select: SGR here, others in `sequential`."""

    def select(self, counts: Prefixes, risk: float, delta: float) -> Selection | None: ...
    def smallest_supported(self, counts: Prefixes, delta: float) -> float | None: ...
    def tests(self, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
        """How many ways delta is split for a test that must pass, for tables of so many thresholds."""
        ...


class SGR:
    """`select` and `smallest_supported` as a method."""

    def select(self, counts: Prefixes, risk: float, delta: float) -> Selection | None:
        return select(counts, risk, delta)

    def smallest_supported(self, counts: Prefixes, delta: float) -> float | None:
        return smallest_supported(counts, delta)

    def tests(self, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
        steps: NDArray[np.float64] = np.floor(np.log2(thresholds)) + 1
        return steps


def prefixes(scores: NDArray[np.float32], loss: NDArray[np.float64]) -> Prefixes:
    """Counts at each distinct score. Shapes: scores (n,), loss (n,) in {0, 1}.

    Raises: ValueError when a loss is neither 0 nor 1, for which the binomial bound says nothing.
    """
    if not np.isin(loss, (0, 1)).all():
        raise ValueError(
            f"loss: expected 0 or 1 for every row, got {loss[~np.isin(loss, (0, 1))][0]}; "
            "threshold the loss first, a binomial promise counts errors"
        )
    return _summed(scores, loss, 1)


def graded_prefixes(scores: NDArray[np.float32], loss: NDArray[np.float64]) -> Prefixes:
    """Sums of losses at each distinct score. Shapes: scores (n,), loss (n,) in [0, 1]; n below 2^30."""
    return _summed(scores, loss, GRADES)


def _summed(scores: NDArray[np.float32], loss: NDArray[np.float64], scale: int) -> Prefixes:
    order = np.argsort(scores, kind="stable")
    ranked, losses = scores[order], loss[order]
    last = np.ones(scores.size, dtype=bool)
    last[:-1] = ranked[1:] != ranked[:-1]
    ends = np.flatnonzero(last)
    wrong = np.cumsum(np.ceil(losses * scale).astype(np.int64))[ends]
    return Prefixes(ranked[ends], ends + 1, wrong, losses, scale)


def select(counts: Prefixes, risk: float, delta: float) -> Selection | None:
    """The last passing threshold of a binary search over distinct scores; None when no step passes (accept nothing).

    Each step passes when the Clopper-Pearson upper bound at delta / steps is <= risk. The union bound over the search path is
    proven when the true risk does not fall as the threshold rises: then the first wrong turn either only loses coverage or
    is a failure of a bound on the one path the true risk would take. Elsewhere no excess was seen (tests/test_simulators.py).
    Source: Geifman and El-Yaniv 2017, arXiv:1705.08500, algorithm 2; differs: distinct scores, last passing step.
    """
    low, high, best = 0, counts.thresholds.size, None
    while low < high:
        middle = (low + high + 1) // 2
        tried = _at(counts, middle - 1, delta)
        if tried.bound <= risk:
            low, best = middle, tried
        else:
            high = middle - 1
    return best


def smallest_supported(counts: Prefixes, delta: float) -> float | None:
    """The smallest risk for which `select` accepts anything: the best bound on the path of a search that fails throughout."""
    best, high = 1.0, counts.thresholds.size
    while high > 0:
        middle = (high + 1) // 2
        best = min(best, _at(counts, middle - 1, delta).bound)
        high = middle - 1
    return best if best < 1 else None


def rows_needed(counts: Prefixes, risk: float, delta: float, method: Method | None = None) -> int | None:
    """About how many rows with the same ranking would support `risk`, rounded up to two digits; None when none would.

    Found by scaling each prefix's counts up until its bound passes, so it is an estimate, not a promise.
    """
    tests = (method or SGR()).tests
    if counts.thresholds.size == 0:
        return binomial.trials_for_zero_errors(risk, delta)
    at = np.unique(np.linspace(0, counts.thresholds.size - 1, _PREFIXES_TRIED).astype(np.int64))
    accepted, wrong = counts.accepted[at].astype(np.float64), counts.wrong[at].astype(np.float64)
    low, high = np.zeros(at.size), np.full(at.size, math.log(_MOST_GROWTH))
    for _ in range(20):
        middle = (low + high) / 2
        passes = _tail(accepted, wrong, np.exp(middle), risk) <= delta / tests(counts.thresholds.size * np.exp(middle))
        low, high = np.where(passes, low, middle), np.where(passes, middle, high)
    growth = float(np.exp(high.min()))
    return None if growth > 0.99 * _MOST_GROWTH else _two_digits(growth * counts.rows)


def _at(counts: Prefixes, index: int, delta: float) -> Selection:
    accepted, wrong = int(counts.accepted[index]), int(counts.wrong[index])
    bound = binomial.upper(wrong, accepted, delta / counts.steps)
    return Selection(counts.thresholds[index], accepted, wrong, bound, counts.steps)


def _tail(
    accepted: NDArray[np.float64], wrong: NDArray[np.float64], growth: NDArray[np.float64], risk: float
) -> NDArray[np.float64]:
    right = np.maximum(growth * (accepted - wrong), np.finfo(np.float64).tiny)
    tail: NDArray[np.float64] = betaincc(growth * wrong + 1, right, risk)
    return np.where(accepted > wrong, tail, 1.0)


def _two_digits(x: float) -> int:
    unit: int = 10 ** max(0, math.floor(math.log10(x)) - 1)
    return int(math.ceil(x / unit) * unit)
