"""Selective classification with out-of-distribution detection (SCOD): when to reject, given the error risk and a density ratio.

risk is the probability that the model errs on an in-distribution input, ratio is P_out(x) / P_in(x). Nothing here can be learnt
from in-distribution data alone: the ratio needs outliers or unlabelled traffic, or a number that somebody answers for.
Source: Narasimhan, Menon, Jitkrittum & Kumar 2024 (plug-in estimators for SCOD); the Bayes rule is re-derived from its objective.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from scipy.optimize import minimize

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float64 = NDArray[np.float64]

FEWEST_ROWS = 10


def cost_excess(risk: Float64, ratio: Float64, c_in: float, c_out: float) -> Float64:
    """(N,): reject exactly where it is above 0. (1 - c_in - c_out) risk + c_out ratio - c_in.

    Minimises (1 - c_in - c_out) P_in(wrong, accepted) + c_in P_in(rejected) + c_out P_out(accepted).
    """
    return (1 - c_in - c_out) * risk + c_out * ratio - c_in


def black_box_rejects(confidence: Float64, inlier_ratio: Float64, c_in: float, c_out: float) -> NDArray[np.bool_]:
    """The same rule from s_sc = 1 - risk and s_ood = P_in / P_out: (1-c_in-c_out) s_sc - c_out / s_ood < 1 - 2 c_in - c_out."""
    return (1 - c_in - c_out) * confidence - c_out / inlier_ratio < 1 - 2 * c_in - c_out


def rejection_price(risk: Float64, ratio: Float64, c_fn: float, inlier_share: float) -> Float64:
    """(N,): the price lambda of a rejection at which rejecting x stops paying; rejecting the highest uses a budget best.

    Traffic is inlier_share P_in + (1 - inlier_share) P_out. Minimising (1 - c_fn) P_in(wrong, accepted) + c_fn P_out(accepted)
    + lambda P(rejected) rejects where ((1 - c_fn) risk + c_fn ratio) / (inlier_share + (1 - inlier_share) ratio) > lambda: one
    score, whose threshold is the Lagrange multiplier. So a refusal promise on it is the budget form.
    """
    loss = (1 - c_fn) * risk + c_fn * ratio
    price: Float64 = loss / (inlier_share + (1 - inlier_share) * ratio)
    return price


def price_for_budget(prices: Float64, budget: float) -> float:
    """The smallest lambda that rejects at most the share `budget` of these inputs (N,). Raises: ValueError for no inputs."""
    if not prices.size:
        raise ValueError("prices: expected at least one input to spend the budget on, got none")
    ordered = np.sort(prices)
    return float(ordered[prices.size - 1 - math.floor(budget * prices.size + 1e-9)]) if budget < 1 else -math.inf


def outlier_ratio(mixed: Float64, wild_inlier_share: float) -> Float64:
    """P_out / P_in from P_wild / P_in, where wild traffic is a share `wild_inlier_share` of in-distribution; at least 0."""
    ratio: Float64 = np.maximum((mixed - wild_inlier_share) / (1 - wild_inlier_share), 0)
    return ratio


@dataclass(frozen=True)
class LogRatio:
    """log P_other(x) / P_in(x) = slope * score + intercept: a rising map, so the ranking stays."""

    slope: float
    intercept: float

    @classmethod
    def fit(cls, inliers: Float64, others: Float64) -> Self:
        """Logistic regression of the side on the score, with the prior odds taken out again.

        Targets are (n + 1) / (n + 2) and 1 / (n + 2), so that separable scores keep a finite slope (Platt 1999).
        Raises: ValueError for under 10 rows a side, scores that are not finite, or others that do not score higher.
        """
        for name, rows in (("in-distribution", inliers), ("outlier or wild", others)):
            if rows.size < FEWEST_ROWS or not np.isfinite(rows).all():
                raise ValueError(f"expected at least {FEWEST_ROWS} finite {name} scores, got {rows.size}")
        both = np.concatenate([inliers, others])
        centre, scale = both.mean(), both.std() or 1.0
        side = np.r_[
            np.full(inliers.size, 1 / (inliers.size + 2)), np.full(others.size, (others.size + 1) / (others.size + 2))
        ]
        x = (both - centre) / scale

        def loss(w: Float64) -> tuple[float, Float64]:
            z = w[0] * x + w[1]
            wrong = 1 / (1 + np.exp(-np.clip(z, -500, 500))) - side
            return float(np.sum(np.logaddexp(0, z) - side * z)), np.array([np.sum(wrong * x), np.sum(wrong)])

        slope, intercept = minimize(loss, np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-9 * both.size}).x
        if slope <= 0:
            raise ValueError(
                "outliers do not score higher than in-distribution rows; a density ratio needs a score that does"
            )
        prior = math.log(others.size / inliers.size)
        return cls(float(slope / scale), float(intercept - slope * centre / scale - prior))
