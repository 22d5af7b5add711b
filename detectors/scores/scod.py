"""Reject for being wrong or foreign by one cost: the plug-in SCOD score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from demur.detectors.build import build_score
from demur.detectors.evaluate import evaluate
from demur.detectors.hyper import between
from demur.detectors.promises.scod import FEWEST_ROWS, LogRatio
from demur.detectors.sample import sample_of
from demur.detectors.score import Reference, Scaling, Score, sample
from demur.detectors.tensor import Ops, Signal, Signals, T

SAMPLE_ROWS = 50_000
MOST_NATS = 60.0  # e^60 outweighs every other term and is finite in float32


@dataclass(frozen=True, eq=False)
class SCOD:
    """The risk of an error, 1 - max softmax, and the density ratio P_out / P_in, weighed by what mistakes cost.

    The ratio is exp(slope s + intercept) of a novelty score s: given as numbers, or fitted on `outliers`, or on `wild` traffic
    of which a share `wild_inlier_share` is in-distribution. With `c_in` and `c_out`, the cost of rejecting an inlier and of
    accepting an outlier, the score is (1 - c_in - c_out) risk + c_out ratio - c_in, above 0 exactly where rejecting is cheaper.
    Without them it is the price of a rejection, ((1 - c_fn) risk + c_fn ratio) / (share + (1 - share) ratio) for traffic with a
    share `inlier_share` of inliers; a refusal promise on it spends a rejection budget best.
    Not learnable from in-distribution data alone. A score that remembers its reference rows (knn) makes the fitted ratio too
    steep: its inliers are those rows.
    Shapes: logits (N, C) and what the novelty score reads -> (N,). Range: [-c_in, inf), or [0, inf). Higher is less trustworthy.
    Raises: ValueError in fit without outliers or wild rows, with under 10 finite scores, when they do not
    score higher, or for costs outside [0, 1].
    Source: Narasimhan, Menon, Jitkrittum & Kumar 2024 (plug-in SCOD), Bayes rule; ratio: Platt 1999.
    """

    score: Score
    slope: float
    intercept: float
    wild_inlier_share: float
    costs: tuple[float, ...]
    c_fn: float
    inlier_share: float
    scales: ClassVar[Scaling] = sample(SAMPLE_ROWS)
    source: ClassVar[str] = "Narasimhan, Menon, Jitkrittum & Kumar 2024, plug-in estimators for SCOD"

    @property
    def inputs(self) -> tuple[Signal, ...]:
        return tuple(dict.fromkeys(("logits", *self.score.inputs)))

    @classmethod
    def fit(
        cls,
        reference: Reference,
        *,
        score: str | dict[str, Any],
        c_in: float | None = None,
        c_out: float | None = None,
        c_fn: float = 0.75,
        inlier_share: float = 0.5,
        wild_inlier_share: float = 0.0,
        slope: float | None = None,
        intercept: float = 0.0,
        seed: int = 0,
    ) -> Self:
        if (c_in is None) != (c_out is None):
            raise ValueError("scod: give c_in and c_out together, or neither for the price of a rejection")
        costs = () if c_in is None or c_out is None else (_share("c_in", c_in), _share("c_out", c_out))
        if sum(costs) > 1:
            raise ValueError(f"scod: c_in + c_out must be at most 1, got {sum(costs):g}; scale the costs")
        wild = _share("wild_inlier_share", wild_inlier_share, below=True)
        missed, share = _share("c_fn", c_fn), between("scod", "inlier_share", inlier_share, 0.0, 1.0)
        inner = build_score(score, None, reference)
        if any(s.startswith("p:") for s in inner.inputs):
            raise ValueError("scod: score must read signals, not the p-values of others")
        if slope is None:
            found = _log_ratio(reference, inner, "wild" if wild else "outliers", seed)
        else:
            found = LogRatio(between("scod", "slope", slope, 0.0, 1e6), float(intercept))
        return cls(inner, found.slope, found.intercept, wild, costs, missed, share)

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        risk = 1.0 - xp.exp(xp.max(xp.log_softmax(signals["logits"])))
        ratio = xp.exp(xp.minimum(self.score(xp, signals) * self.slope + self.intercept, MOST_NATS))
        if self.wild_inlier_share:
            ratio = xp.maximum((ratio - self.wild_inlier_share) * (1 / (1 - self.wild_inlier_share)), 0.0)
        if self.costs:
            c_in, c_out = self.costs
            return (1 - c_in - c_out) * risk + c_out * ratio - c_in  # type: ignore[no-any-return]
        loss = (1 - self.c_fn) * risk + self.c_fn * ratio
        return loss / (self.inlier_share + (1 - self.inlier_share) * ratio)  # type: ignore[no-any-return]


def _log_ratio(reference: Reference, inner: Score, side: str, seed: int) -> LogRatio:
    inliers = _scores(reference, inner, seed, "reference")
    others = _scores(reference.side(side, "scod"), inner, seed, side)
    try:
        return LogRatio.fit(inliers, others)
    except ValueError as cause:
        raise ValueError(f"scod: {cause}") from cause


def _scores(reference: Reference, inner: Score, seed: int, role: str) -> NDArray[np.float64]:
    rows = sample_of(reference, *inner.inputs, size=SAMPLE_ROWS, seed=seed).signals
    found = evaluate({"score": inner}, {s: r.astype(np.float32) for s, r in rows.items()})["score"]
    finite = found[np.isfinite(found)].astype(np.float64)
    if finite.size < FEWEST_ROWS:
        raise ValueError(
            f"scod: {role}: expected at least {FEWEST_ROWS} rows with a finite score, got {finite.size} of {found.size}; "
            "give more rows without NaN or infinity"
        )
    return finite


def _share(name: str, value: object, *, below: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1 or (below and value == 1):
        raise ValueError(f"scod: {name} must be a number in [0, 1{')' if below else ']'}, got {value!r}")
    return float(value)
