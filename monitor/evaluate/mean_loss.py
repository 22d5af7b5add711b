"""The mean of losses in [0, 1], with bounds that hold for any number of units and any distribution."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from demur.detectors.promises import control
from demur.monitor.evaluate.estimate import Estimate
from demur.monitor.evaluate.shares import PROOF, Checked, cluster_shares

_HALVINGS = 60


def mean_estimate(losses: NDArray[np.float64], confidence: float, seed: int, *, alone: bool = True) -> Estimate:
    """The mean of losses (N,) in [0, 1], with its two-sided betting interval where they stand `alone`; undefined for no units.

    Losses between 0 and 1 are no count, so Clopper-Pearson says nothing about them, and percentiles of resamples fall short
    when few losses are large. Each end has half of what `confidence` leaves. The order of the bets is drawn from `seed`.
    Source: Waudby-Smith & Ramdas 2024, arXiv:2010.09686, as in `demur.detectors.promises.control`.
    """
    if not len(losses):
        return Estimate(math.nan)
    tail, value = (1 - confidence) / 2, float(losses.mean())
    if not alone:
        return Estimate(value)
    upper = control.betting_upper(_shuffled(losses, seed), tail)
    return Estimate(value, min(value, lower_bound(losses, tail, seed)), max(value, upper))


def lower_bound(losses: NDArray[np.float64], delta: float, seed: int) -> float:
    """What the mean that the losses (N,) were drawn with is not below, with confidence 1 - delta; in [0, 1)."""
    return max(0.0, 1 - control.betting_upper(1 - _shuffled(losses, seed), delta))


def checked_mean(
    losses: NDArray[np.float64],
    accept: NDArray[np.bool_],
    cluster: NDArray[np.int64] | None,
    confidence: float,
    seed: int,
) -> Checked:
    """The loss of what is accepted, averaged over all units, (N,) each, refused ones as 0; `part` counts losses above 0.

    With clusters (N,) a unit weighs 1 / cluster size, as in promises about grouped rows: the mean is that of the clusters' own
    means, which are independent and lie in [0, 1] too.
    """
    let_in = np.where(accept, losses, 0.0)
    part, whole = int(np.count_nonzero(let_in)), len(let_in)
    if not whole:
        return Checked(0, 0, Estimate(math.nan), 0.0)
    alone = let_in if cluster is None else cluster_shares(let_in, cluster)
    return Checked(part, whole, mean_estimate(alone, confidence, seed), lower_bound(alone, 1 - PROOF, seed))


def one_draw_bound(units: int, level: float, confidence: float) -> float | None:
    """What a calibration of `units` that holds `level` on average keeps to by itself, with `confidence`; None for too few units.

    A threshold whose mean loss is r is passed only when its observed mean is at most a = level - (1 - level) / units, of which
    the probability is at most exp(-units KL(a, r)); the bound is the r where that is 1 - confidence. In (level, 1].
    Source: Hoeffding 1963, theorem 1, for any losses in [0, 1].
    """
    observed = level - (1 - level) / units if units else -1.0
    if observed < 0:
        return None
    low, high = level, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (
            (low, middle) if units * divergence(observed, middle) >= -math.log1p(-confidence) else (middle, high)
        )
    return high


def divergence(observed: float, rate: float) -> float:
    """Kullback-Leibler divergence of a coin of `observed` from one of `rate`, in nats; both in [0, 1]."""
    pairs = ((observed, rate), (1 - observed, 1 - rate))
    return sum(math.inf if not q else p * math.log(p / q) for p, q in pairs if p > 0)


def _shuffled(losses: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """A sorted table would let the first bets learn from one kind of loss alone."""
    return losses[np.random.default_rng(seed).permutation(len(losses))]
