"""Reject for being wrong or foreign by one cost (Narasimhan et al. 2024)."""

from __future__ import annotations

import numpy as np

from tests.oracles.sample import Float


def ratio(score: Float, slope: float, intercept: float, wild_inlier_share: float) -> Float:
    """P_out / P_in from log P_wild / P_in = slope s + intercept, P_wild = pi P_in + (1 - pi) P_out; not below 0."""
    odds = np.exp(slope * score + intercept)
    return np.maximum((odds - wild_inlier_share) / (1 - wild_inlier_share), 0.0)


def excess(risk: Float, foreign: Float, c_in: float, c_out: float) -> Float:
    """(1 - c_in - c_out) risk + c_out P_out / P_in - c_in: above 0 where Bayes rejects (lemma 4.1)."""
    return (1 - c_in - c_out) * risk + c_out * foreign - c_in


def price(risk: Float, foreign: Float, c_fn: float, inlier_share: float) -> Float:
    """The lambda at which accepting, (1 - c_fn) risk + c_fn ratio, costs as much as rejecting, lambda times the density of
    the traffic, pi + (1 - pi) ratio; all in units of P_in."""
    return ((1 - c_fn) * risk + c_fn * foreign) / (inlier_share + (1 - inlier_share) * foreign)
