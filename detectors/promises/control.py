"""Control of a risk that only grows with the threshold: the share of all inputs that are wrong and accepted.

Conformal risk control holds it on average over calibration draws, risk-controlling prediction sets (RCPS) with confidence for
this one. Losses are 0 or 1 for the exact binomial bound, anything in [0, 1] for the others.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from demur.detectors.promises import binomial
from demur.detectors.promises.promise import CalibrationRefused, Level, exact

if TYPE_CHECKING:
    from fractions import Fraction

    from numpy.typing import NDArray

    from demur.detectors.promises.promise import ControlBy
    from demur.detectors.promises.selective import Prefixes

    Float64 = NDArray[np.float64]

_HALVINGS = 60
MOST_BETTING_UNITS = 50_000  # one pass over all units for each error let in: 5 s at this many, 20 s at twice
MOST_GRADED_UNITS = 15_000  # every unit may have a loss: 5 s


def conformal_budget(n: int, alpha: Level) -> Fraction:
    """The largest sum of n losses with sum / (n + 1) + 1 / (n + 1) <= alpha; negative when n cannot carry alpha.

    Source: Angelopoulos, Bates, Fisch, Lei & Schuster 2024, arXiv:2208.02814, theorem 1, with losses bounded by 1.
    """
    return exact(alpha) * (n + 1) - 1


def log_wealth(losses: Float64, risk: float | Float64, delta: float) -> Float64:
    """Log-wealth after each of n bets against "the mean loss is at least `risk`": (..., n) -> (..., n).

    prod_j (1 - v_j (L_j - risk)), v_j = min(1, sqrt(2 ln(1/delta) / (n s_{j-1}^2))), with the mean (1/2 + sum L) / (j + 1) and the
    variance s_j^2 = (1/4 + sum (L - mean)^2) / (j + 1). A supermartingale when the hypothesis is true, increasing in `risk`.
    Source: Waudby-Smith & Ramdas 2024, arXiv:2010.09686; Bates, Angelopoulos, Lei, Malik & Jordan 2021, arXiv:2101.02703.
    """
    n = losses.shape[-1]
    seen = np.arange(1, n + 1) + 1.0
    mean = (0.5 + np.cumsum(losses, axis=-1)) / seen
    variance = (0.25 + np.cumsum((losses - mean) ** 2, axis=-1)) / seen
    before = np.concatenate([np.full_like(variance[..., :1], 0.25), variance[..., :-1]], axis=-1)
    bets = np.minimum(1.0, np.sqrt(2 * math.log(1 / delta) / (n * before)))
    with np.errstate(divide="ignore"):
        wealth: Float64 = np.cumsum(np.log1p(-bets * (losses - np.asarray(risk)[..., None])), axis=-1)
    return wealth


def betting_rejects(losses: Float64, risk: float | Float64, delta: float) -> NDArray[np.bool_]:
    """Whether "the mean loss is at least `risk`" is refuted at level delta: (..., n) -> (...,).

    # INVARIANT: one running maximum over the whole sequence. Ville's inequality bounds nothing else; adding the maxima of two
    # halves, as MAPIE 1.6.0 does, misses a nominal 10 % in about 20 % of draws (tests/test_simulators_control.py).
    """
    found: NDArray[np.bool_] = log_wealth(losses, risk, delta).max(axis=-1) > math.log(1 / delta)
    return found


def betting_upper(losses: Float64, delta: float) -> float:
    """The upper confidence bound of the mean of losses (n,) in [0, 1], in their order; in (0, 1]. O(n) a bisection step.

    Raises: ValueError for losses outside [0, 1], of which the bound says nothing.
    """
    if losses.ndim != 1 or not losses.size or not ((losses >= 0) & (losses <= 1)).all():
        raise ValueError(
            f"losses: expected (n,) in [0, 1], got shape {losses.shape}; scale them by their largest value"
        )
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if betting_rejects(losses, middle, delta) else (middle, high)
    return high


def largest(counts: Prefixes, n: int, alpha: Level, delta: float | None, by: ControlBy, seed: int) -> int:
    """The index of the highest distinct score up to which units may be accepted, of n units in all; -1 when of none.

    `counts` are of the units no other rule refuses. `delta` None is conformal risk control. The betting bound depends on the
    order of the units, so it looks at them in an order drawn from `seed`. Raises: CalibrationRefused for more units than it can.
    """
    graded = counts.scale > 1
    if delta is not None and by == "betting" and n > (most := MOST_GRADED_UNITS if graded else MOST_BETTING_UNITS):
        better = "draw that many" if graded else "by: binomial is exact for them, and accepts more"
        raise CalibrationRefused(f"by betting takes at most {most} units, got {n}; {better}")
    if delta is not None and by == "betting":
        return _largest_by_betting(counts, n, float(alpha), delta, seed)
    most = (
        binomial.most_errors(n, float(alpha), delta)
        if delta is not None
        else math.floor(conformal_budget(n, alpha) * counts.scale)
    )
    return int(np.searchsorted(counts.wrong, most, side="right")) - 1


def _largest_by_betting(counts: Prefixes, n: int, alpha: float, delta: float, seed: int) -> int:
    """Thresholds from the lowest up, until one is not proven: a test changes only where a unit with a loss comes in."""
    places = _places(n, seed)
    losses, known, harmful = np.zeros(n), counts.losses[counts.losses > 0], np.cumsum(counts.losses > 0)
    taken, before = 0, 0
    for index in np.flatnonzero(np.diff(counts.wrong, prepend=0)):
        if not betting_rejects(losses, alpha, delta):
            return before - 1
        before = int(index)
        within = int(harmful[counts.accepted[index] - 1])
        losses[places[taken:within]] = known[taken:within]
        taken = within
    return counts.wrong.size - 1 if betting_rejects(losses, alpha, delta) else before - 1


def _places(n: int, seed: int) -> NDArray[np.int64]:
    """The order in which bets are made, the same for every threshold and whatever the losses."""
    return np.random.default_rng(seed).permutation(n)


def units_needed(alpha: Level, delta: float | None, by: ControlBy) -> int:
    """The fewest units, all of them right, that carry the promise."""
    if delta is None:
        return math.ceil(1 / exact(alpha)) - 1
    if by == "binomial":
        return binomial.trials_for_zero_errors(float(alpha), delta)
    low, high = 0, 1
    while not betting_rejects(np.zeros(high), float(alpha), delta):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if betting_rejects(np.zeros(middle), float(alpha), delta) else (middle, high)
    return high


def smallest_supported(counts: Prefixes, n: int, delta: float | None, by: ControlBy, seed: int) -> float | None:
    """The smallest alpha for which something is accepted; None when there is none below 1."""
    if not counts.rows:
        return None
    wrong = int(counts.wrong[0])
    if delta is None:
        least = (wrong / counts.scale + 1) / (n + 1)
    elif by == "binomial":
        least = binomial.upper(wrong, n, delta)
    else:
        first, losses = counts.losses[: counts.accepted[0]], np.zeros(n)
        none = betting_upper(losses, delta)  # the walk from the lowest threshold tests it before any loss comes in
        losses[_places(n, seed)[: np.count_nonzero(first)]] = first[first > 0]
        least = max(none, betting_upper(losses, delta))
    least *= 1 + 1e-9
    return least if least < 1 else None
