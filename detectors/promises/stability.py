"""Rejection of unstable anomaly calls (RejEx) and the confidence of a call (ExCeeD), without labels.

Of n training scores a share gamma is taken as anomalous. A score with psi = #{training <= s} has p = (1 + psi) / (n + 2), and
another training set of n scores would call it anomalous with probability P(Bin(n, p) > n - floor(n gamma)).
Tails come from the incomplete beta function on their own side: 1 - 2 e^-32 has lost its digits in float64, and is 1 in float32.
Source: Perini, Vercruyssen & Davis 2020 (ExCeeD); Perini & Davis 2023, arXiv:2305.13189 (RejEx), sections 3.1-3.3.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import betainc, betaincc, betaincinv, logsumexp
from scipy.stats import betabinom

from demur.detectors.promises.promise import CalibrationRefused, Level, StableAtContamination, exact
from demur.detectors.promises.slices import Table, Thresholds
from demur.detectors.promises.wording import percent, percent_up

if TYPE_CHECKING:
    from numpy.typing import NDArray

RATE_CONFIDENCE = 0.9


def flagged(n: int, gamma: Level) -> int:
    """floor(n gamma), exactly: 29 of 100 at 0.29."""
    return math.floor(n * exact(gamma))


def anomalous_probability(n: int, gamma: Level, psi: NDArray[np.int64]) -> NDArray[np.float64]:
    """P(another training set calls the score anomalous), (...,) in [0, 1], increasing in psi."""
    most = flagged(n, gamma)
    tail: NDArray[np.float64] = betainc(n - most + 1, most, (1 + psi) / (2 + n))
    return tail


def normal_probability(n: int, gamma: Level, psi: NDArray[np.int64]) -> NDArray[np.float64]:
    """1 - anomalous_probability with its own digits, decreasing in psi."""
    most = flagged(n, gamma)
    tail: NDArray[np.float64] = betaincc(n - most + 1, most, (1 + psi) / (2 + n))
    return tail


def exceed_confidence(
    training: NDArray[np.float32], scores: NDArray[np.float32], gamma: Level
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """The calls (N,) bool, True is anomalous, and the confidence (N,) that another training set makes the same call.

    Shapes: training (n,) sorted ascending, scores (N,). A score is called anomalous when more than n - floor(n gamma) are at most it.
    Raises: ValueError when floor(n gamma) is 0, so that nothing is ever called anomalous.
    """
    n = training.size
    if not flagged(n, gamma):
        raise ValueError(
            f"gamma: {float(gamma)} of {n} training scores is none; needs at least {math.ceil(1 / exact(gamma))}"
        )
    psi = np.searchsorted(training, scores, side="right")
    called = psi > n - flagged(n, gamma)
    return called, np.where(called, anomalous_probability(n, gamma, psi), normal_probability(n, gamma, psi))


@dataclass(frozen=True)
class Stability:
    """What RejEx says before it is used: psi in [low, high] is refused as unstable, above it as stably anomalous.

    `anomalous` (q1) and `refused` (q2) are expected shares of traffic like the training data, `rate` = q2 - q1 is unstable;
    `rate_upper` bounds it with 90 % confidence, `cost_upper` the expected cost with false alarm 1, miss 1, refusal gamma. `flip`
    is the exact probability, over both draws, that another calibration set calls the highest accepted score anomalous.
    """

    n: int
    gamma: Level
    tail_nats: float
    low: int
    high: int
    anomalous: float
    refused: float
    rate_upper: float
    cost_upper: float
    flip: float

    @property
    def rate(self) -> float:
        return self.refused - self.anomalous


def stability(n: int, gamma: Level, tail_nats: float) -> Stability:
    """The interval and the shares for n scores. Raises: ValueError when floor(n gamma) is 0."""
    most = flagged(n, gamma)
    if not most:
        raise ValueError(f"gamma: {float(gamma)} of {n} scores is none")
    tail = math.exp(-tail_nats)
    low = bisect_left(range(n + 1), tail, key=lambda psi: float(anomalous_probability(n, gamma, np.array(psi))))
    high = bisect_right(range(n + 1), -tail, key=lambda psi: -float(normal_probability(n, gamma, np.array(psi)))) - 1
    # P(Bin(n, q) <= most - 1) = c has q = 1 - betaincinv(n - most + 1, most, c); c = 1 - e^-T is taken from the other side.
    q1 = float(betaincinv(most, n - most + 1, tail))
    q2 = 1 - float(betaincinv(n - most + 1, most, tail))
    rate = float(gamma)
    cost = min(rate, q1) + min(1 - q2, rate) + (q2 - q1) * rate
    upper = _rate_upper(n, rate, tail_nats, 1 - RATE_CONFIDENCE)
    return Stability(n, gamma, tail_nats, low, high, q1, q2, upper, cost, flip_probability(n, most, low - 1))


def counted(found: Stability, table: Table, rank: int) -> Stability:
    """The account for a table with ties at a cut-off: shares as counted, and 90 % confidence from the DKW inequality.

    Ties are kept on one side of the threshold, the rank-th smallest score, so that far more may be refused than the ranks say.
    """
    n, scores = found.n, table.scores
    if rank == found.low - 1 and not (0 < found.high < n and scores[found.high - 1] == scores[found.high]):
        return found
    refused = 1 - rank / n
    anomalous = min(refused, float(np.mean(np.searchsorted(scores, scores, side="right") > found.high)))
    rate, gamma = refused - anomalous, float(found.gamma)
    return replace(
        found,
        anomalous=anomalous,
        refused=refused,
        rate_upper=min(1.0, rate + 2 * math.sqrt(math.log(2 / (1 - RATE_CONFIDENCE)) / (2 * n))),
        cost_upper=min(gamma, anomalous) + min(1 - refused, gamma) + rate * gamma,
        flip=flip_probability(n, flagged(n, found.gamma), rank),
    )


def flip_probability(n: int, most: int, rank: int) -> float:
    """P(another n scores call the rank-th smallest of these anomalous), exactly, over both draws: beta-binomial.

    Larger than the e^-T that RejEx estimates, for which the true quantile of the score would have to be p.
    """
    if rank < 1:
        return 0.0
    counts = np.arange(n - most + 1, n + 1)
    return float(np.exp(logsumexp(betabinom.logpmf(counts, n, rank, n - rank + 1))))


def _rate_upper(n: int, gamma: float, tail_nats: float, delta: float) -> float:
    right = min(1.0, (-gamma * (n + 2) + n + 1) / n + tail_nats * (n + 2) / math.sqrt(2 * n**3 * tail_nats))
    inside = 2 * n * (-3 * gamma**2 - 2 * n * (1 - gamma) ** 2 + 4 * gamma - 3) + tail_nats * (n + 2) ** 2 - 8
    root = math.sqrt(max(0.0, 0.5 * n**5 * inside)) / n**4
    left = max(0.0, (2 + n * (1 - gamma) * (n + 1)) / n**2 - root)
    return min(1.0, right - left + 2 * math.sqrt(math.log(2 / delta) / (2 * n)))


def calls_extremes(n: int, gamma: Level, tail_nats: float) -> bool:
    """Whether n scores can call anything anomalous stably; with fewer, every high score is only unstable."""
    if not flagged(n, gamma):
        return False
    return bool(normal_probability(n, gamma, np.array(n)) < math.exp(-tail_nats))


def units_needed(gamma: Level, tail_nats: float) -> int:
    """The smallest n from which the most extreme score is called anomalous stably; about (1 + T / 2) / gamma.

    Only a multiple of 1 / gamma adds to floor(n gamma), and between two of them more scores make a call less stable.
    """
    most = 1
    while not calls_extremes(math.ceil(most / exact(gamma)), gamma, tail_nats):
        most += 1
    return math.ceil(most / exact(gamma))


def smallest_supported(n: int, tail_nats: float) -> float | None:
    """The smallest gamma below 0.5 that n scores carry; None when there is none."""
    for most in range(1, (n + 1) // 2):
        gamma = exact(most) / n
        if calls_extremes(n, gamma, tail_nats):
            return float(gamma) * (1 + 1e-9)
    return None


def thresholds(promise: StableAtContamination, table: Table, unit: str) -> Thresholds:
    """The largest score of the table that is still stably normal. Raises: CalibrationRefused for too few units, or ties."""
    n, gamma, tail = table.n, promise.gamma, promise.tail_nats
    if not n or not calls_extremes(n, gamma, tail):
        raise _too_few(promise, n, unit)
    found = stability(n, gamma, tail)
    rank = int(np.searchsorted(table.scores, table.scores[found.low - 1], side="left")) if found.low else 0
    if not rank:
        raise CalibrationRefused(
            f"stable_at_contamination {percent(gamma)}: no score of these {n} {unit} is stably normal, "
            f"{found.low} or more of them tie at the bottom; use a score with more distinct values"
        )
    value = table.scores[rank - 1 : rank].copy()
    return Thresholds(value, np.zeros(1, dtype=np.bool_), (table,), (rank,))


def _too_few(promise: StableAtContamination, n: int, unit: str) -> CalibrationRefused:
    needed, supported = units_needed(promise.gamma, promise.tail_nats), smallest_supported(n, promise.tail_nats)
    works = "" if supported is None else f"; {percent_up(supported)} would work with {n}, or a smaller tail_nats"
    return CalibrationRefused(
        f"stable_at_contamination {percent(promise.gamma)} with tail_nats {promise.tail_nats:g} needs at least {needed} {unit}, "
        f"got {n}{works}",
        rows_needed=needed,
        supported=supported,
    )
