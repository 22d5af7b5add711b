"""Neyman-Pearson choice among columns: the false-alarm bound from good units alone, the column by its power on outliers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from demur.detectors.promises import binomial, order
from demur.detectors.promises.promise import CalibrationRefused, Level
from demur.detectors.promises.wording import percent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Choice:
    """Refuse score > threshold of this column: with `confidence` at most `alpha` of good units, and of the outliers `refused` of `n`.

    `low` and `high` are the exact interval of the power for outliers like them, good for whichever column was chosen.
    """

    column: str
    threshold: np.float32
    alpha: Level
    confidence: float
    refused: int
    n: int
    low: float
    high: float


def choose(
    columns: Mapping[str, tuple[Scores, Scores]], alpha: Level, confidence: float, *, power_confidence: float = 0.95
) -> Choice:
    """The column of greatest power among candidates, name -> (good scores (n,), outlier scores (m,)).

    Each candidate gets the tolerance limit at (1 - confidence) / number of candidates, so the bound holds for all of them
    and therefore for the chosen one; among equals the first. Labelled outliers never touch the bound.
    Source: Tong, Feng & Li 2018, doi:10.1126/sciadv.aao1659 (umbrella rule).
    Raises: CalibrationRefused with the units needed; ValueError for no candidates, or one without outliers.
    """
    if not columns:
        raise ValueError("columns: expected at least one candidate, got none")
    share = (1 - confidence) / len(columns)
    found = []
    for name, (good, outliers) in columns.items():
        if not outliers.size:
            raise ValueError(f"column {name!r}: expected labelled outliers to compare powers on, got none")
        rank = order.tolerance_rank(good.size, alpha, 1 - share)
        if rank > good.size:
            raise _too_few(name, good.size, alpha, share)
        threshold = np.sort(good)[rank - 1]
        found.append((name, threshold, int(np.count_nonzero(outliers > threshold)), outliers.size))
    name, threshold, refused, n = max(found, key=lambda f: f[2] / f[3])
    low, high = binomial.interval(refused, n, 1 - (1 - power_confidence) / len(columns))
    return Choice(name, threshold, alpha, confidence, refused, n, low, high)


def _too_few(name: str, n: int, alpha: Level, share: float) -> CalibrationRefused:
    needed = order.units_for_tolerance(alpha, 1 - share)
    return CalibrationRefused(
        f"column {name!r}: refuse_good_at_most {percent(alpha)} needs at least {needed} good units for this many candidates, got {n}",
        rows_needed=needed,
        supported=order.supported_level(n, 1 - share),
    )
