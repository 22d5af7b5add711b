"""Acceptance by cause: what a score, or the policy, lets through of each kind of input, right and wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demur.monitor.evaluate.counts import Values
from demur.monitor.evaluate.decisions import Decisions
from demur.monitor.evaluate.errors import EvaluationError
from demur.monitor.evaluate.estimate import Estimate, exact_share
from demur.monitor.evaluate.pool import ID, Pool
from demur.monitor.evaluate.roc import ROUNDING

POLICY = "policy"
OPERATING_SHARE = 0.95


@dataclass(frozen=True)
class CauseShare:
    """How many units of one cause in one set are accepted. Causes: ID+, ID-, C+, C-, S; ID and C without labels.

    C+ (shifted, still right) should be accepted like ID+; ID-, C- and S should not.
    """

    cause: str
    set: str
    units: int
    accepted: int
    share: Estimate


@dataclass(frozen=True)
class Scope:
    """One acceptor at its operating point. threshold: accepted at or below it; None for the policy, which has its own.

    mcc: of refused with wrong over everything whose truth is known; NaN without labels.
    """

    acceptor: str
    threshold: float | None
    causes: tuple[CauseShare, ...]
    mcc: float


def scope_threshold(scores: Values, good: Values, at: float = OPERATING_SHARE) -> float:
    """The lowest observed score (K,) at or below which at least `at` of the good units (K,) lie. No interpolation.

    The operating point of MS-OOD: 95 % of ID+ (correct in-distribution units, not all of them) are accepted.
    Raises: EvaluationError without good units.
    """
    accepted = np.cumsum(good)
    if not len(accepted) or not accepted[-1]:
        raise EvaluationError("expected correct in-distribution units to set the operating point on, got none")
    return float(scores[int((accepted >= (at - ROUNDING) * accepted[-1]).argmax())])


def evaluate_scope(
    pool: Pool, acceptor: str, threshold: float | None, accept: NDArray[np.bool_], confidence: float
) -> Scope:
    """The per-cause table of one acceptor; accept (usable units,). Intervals are Clopper-Pearson, for units that stand alone."""
    causes, known = [], Decisions(0, 0, 0, 0)
    atom = pool.atom[pool.usable]
    for number, one in enumerate(pool.atoms):
        here = accept[atom == number]
        units, accepted = len(here), int(np.count_nonzero(here))
        if units:
            causes.append(
                CauseShare(one.cause, one.part.name, units, accepted, _interval(pool, accepted, units, confidence))
            )
        if one.wrong is not None:
            known = known + Decisions.of(here, np.full(units, one.wrong))
    labelled = any(one.part.name == ID and one.wrong is not None for one in pool.atoms)
    return Scope(acceptor, threshold, tuple(causes), known.mcc if labelled else float("nan"))


def good_atoms(pool: Pool) -> list[int]:
    """The atoms that the operating point is set on: ID+, or all in-distribution units without labels."""
    return [i for i, one in enumerate(pool.atoms) if one.part.name == ID and not one.wrong]


def _interval(pool: Pool, accepted: int, units: int, confidence: float) -> Estimate:
    return exact_share(accepted, units, confidence) if pool.cluster is None else Estimate(accepted / units)
