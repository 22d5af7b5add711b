"""Logistic regression with an L2 penalty, to its only optimum."""

from __future__ import annotations

import numpy as np

from demur.detectors.learned.layer import Float64

STEPS = 100


def logistic(rows: Float64, targets: Float64, share: Float64, penalty: float) -> tuple[Float64, float]:
    """Weights (D,) and bias that minimise sum_i share_i log-loss_i + penalty / 2 |weights|^2, by damped Newton steps.

    rows (n, D), targets (n,) 0 or 1, share (n,) positive, penalty > 0. The bias is not penalised; needs both targets.
    """
    design = np.column_stack([rows, np.ones(len(rows))])
    ridge = np.append(np.full(rows.shape[1], penalty), 0.0)
    at, value = np.zeros(design.shape[1]), np.inf
    value = _loss(design, targets, share, ridge, at)
    for _ in range(STEPS):
        p = _sigmoid(design @ at)
        slope = design.T @ (share * (p - targets)) + ridge * at
        if np.abs(slope).max() <= 1e-10 * max(1.0, share.sum()):
            break
        curve = (design * (share * p * (1 - p))[:, None]).T @ design + np.diag(ridge + 1e-12)
        step, length = np.linalg.solve(curve, slope), 1.0
        while (found := _loss(design, targets, share, ridge, at - length * step)) > value and length > 1e-8:
            length /= 2
        at, value = at - length * step, found
    return at[:-1], float(at[-1])


def _sigmoid(x: Float64) -> Float64:
    return np.asarray(np.exp(-np.logaddexp(0.0, -x)))


def _loss(design: Float64, targets: Float64, share: Float64, ridge: Float64, at: Float64) -> float:
    z = design @ at
    return float(share @ (np.logaddexp(0.0, z) - targets * z) + 0.5 * ridge @ (at * at))
