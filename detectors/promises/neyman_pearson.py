"""Neyman-Pearson choice among columns: the false-alarm bound from good units alone, the column by its power on outliers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import betaincc, betaincinv

from demur.detectors.promises import binomial, order
from demur.detectors.promises.promise import CalibrationRefused, Level
from demur.detectors.promises.wording import percent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Power:
    """Of `n` labelled outliers, a candidate at its own threshold refuses `refused`."""

    column: str
    refused: int
    n: int

    @property
    def score(self) -> str:
        """The column without what marks it as a group's or a rule's own."""
        return self.column.partition("@")[0]

    @property
    def share(self) -> float:
        return self.refused / self.n


@dataclass(frozen=True)
class Choice:
    """Refuse score > threshold of this column: with `confidence` at most `alpha` of good units, and of the outliers `refused` of `n`.

    The threshold is the `rank`-th smallest good score. `low` and `high` are the exact interval of the power for outliers like
    them, good for whichever column was chosen; `compared` has every candidate, in order.
    """

    column: str
    threshold: np.float32
    rank: int
    alpha: Level
    confidence: float
    refused: int
    n: int
    low: float
    high: float
    compared: tuple[Power, ...]


def choose(
    columns: Mapping[str, tuple[Scores, Scores]],
    alpha: Level,
    confidence: float,
    *,
    power_confidence: float = 0.95,
    inflation: float = 1.0,
) -> Choice:
    """The column of greatest power among candidates, name -> (good scores (n,), outlier scores (m,)).

    Each candidate gets the tolerance limit at (1 - confidence) / number of candidates, so the bound holds for all of them
    and therefore for the chosen one; among equals the first. Labelled outliers never touch the bound. `inflation` is that
    of the tables of good scores (`order`).
    Source: Tong, Feng & Li 2018, doi:10.1126/sciadv.aao1659 (umbrella rule).
    Raises: CalibrationRefused with the units needed; ValueError for no candidates, or one without outliers.
    """
    if not columns:
        raise ValueError("columns: expected at least one candidate, got none")
    share, ties = order.delta(confidence) / len(columns), len(columns) * inflation
    found = []
    for name, (good, outliers) in columns.items():
        if not outliers.size:
            raise ValueError(f"column {name!r}: expected labelled outliers to compare powers on, got none")
        rank = _rank(good.size, alpha, share, ties, inflation)
        if rank > good.size:
            raise _too_few(name, good.size, alpha, share, ties, inflation)
        threshold = np.sort(good)[rank - 1]
        found.append((Power(name, int(np.count_nonzero(outliers > threshold)), outliers.size), threshold, rank))
    best, threshold, rank = max(found, key=lambda f: f[0].share)
    low, high = binomial.interval(best.refused, best.n, power_level(len(columns), power_confidence))
    compared = tuple(power for power, _, _ in found)
    return Choice(best.column, threshold, rank, alpha, confidence, best.refused, best.n, low, high, compared)


def power_level(candidates: int, confidence: float) -> float:
    """The confidence of each candidate's interval, so that the one of the chosen column has `confidence`."""
    return 1 - (1 - confidence) / candidates


def _rank(n: int, alpha: Level, share: float, ties: float, inflation: float) -> int:
    """The tolerance limit's rank, or the first above it at which even the worst of the candidates is within alpha on average,
    as a policy's total counts on.
    """
    rank = max(order.marginal_rank(n, alpha), order.tolerance_rank(n, alpha, 1 - share, inflation))
    while rank <= n and _worst_on_average(n, rank, ties) > alpha:
        rank += 1
    return rank


def _worst_on_average(n: int, rank: int, ties: float) -> float:
    """What E[max of `ties` dependent Beta(n - rank + 1, rank) tails] does not exceed: the mean of their upper 1 / ties part."""
    a = n - rank + 1
    start = float(betaincinv(a, rank, 1 - 1 / ties))
    return ties * a / (n + 1) * float(betaincc(a + 1, rank, start))


def _too_few(name: str, n: int, alpha: Level, share: float, ties: float, inflation: float) -> CalibrationRefused:
    needed = order.units_for_tolerance(alpha, 1 - share, inflation)
    while _worst_on_average(needed, needed, ties) > alpha:
        needed += 1
    least = max(order.supported_level(n, 1 - share, inflation) or 1.0, _worst_on_average(n, n, ties) if n else 1.0)
    return CalibrationRefused(
        f"column {name!r}: refuse_good_at_most {percent(alpha)} needs at least {needed} good units for this many candidates, got {n}",
        rows_needed=needed,
        rows=n,
        supported=least * (1 + 1e-9) if least < 1 else None,
    )
