"""Learned heads: what their training must have reached, and what their networks compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logsumexp, softmax

from tests.oracles.sample import Float


def perceptron(rows: Float, layers: list[tuple[Float, Float]], bend: Callable[[Float], Float]) -> Float:
    """rows W' + b of each layer (W (out, in), b (out,)), bent between them."""
    for place, (weight, bias) in enumerate(layers):
        rows = rows @ weight.T + bias
        if place < len(layers) - 1:
            rows = bend(rows)
    return rows


def logistic(rows: Float, targets: Float, shares: Float, penalty: float) -> tuple[Float, float]:
    """(W, b) of the least sum_i share_i log-loss_i + penalty / 2 |W|^2, by Newton's method: the only minimum."""
    design = np.column_stack([rows, np.ones(len(rows))])
    ridge = np.diag(np.append(np.full(rows.shape[1], penalty), 0.0))
    found = np.zeros(design.shape[1])
    for _ in range(100):
        p = expit(design @ found)
        slope = design.T @ (shares * (p - targets)) + ridge @ found
        curve = design.T @ ((shares * p * (1 - p))[:, None] * design) + ridge
        step = np.linalg.solve(curve, slope)
        found -= step
        if np.abs(step).max() < 1e-12:
            return found[:-1], float(found[-1])
    raise ArithmeticError("Newton's method did not settle")


def exposed_linear_head(rows: Float, labels: np.ndarray, outliers: Float, penalty: float) -> tuple[Float, Float]:
    """W (C, D), b (C,) of the least mean cross entropy + mean 0.5 (logsumexp z - mean z) of outliers + penalty / 2 |W|^2
    (Hendrycks et al. 2019, equation 1 with lambda = 0.5): convex, by scipy to its optimum."""
    classes, width = labels.max() + 1, rows.shape[1]
    target = np.eye(classes)[labels]

    def loss(flat: Float) -> tuple[float, Float]:
        weight, bias = flat[: classes * width].reshape(classes, width), flat[classes * width :]
        z, foreign = rows @ weight.T + bias, outliers @ weight.T + bias
        value = -(target * log_softmax(z, axis=1)).sum(axis=1).mean()
        value += 0.5 * (logsumexp(foreign, axis=1) - foreign.mean(axis=1)).mean() + penalty / 2 * np.sum(weight**2)
        off = (softmax(z, axis=1) - target) / len(rows)
        off_foreign = 0.5 * (softmax(foreign, axis=1) - 1 / classes) / len(outliers)
        slope = off.T @ rows + off_foreign.T @ outliers + penalty * weight
        return float(value), np.append(slope.ravel(), off.sum(axis=0) + off_foreign.sum(axis=0))

    start = np.zeros(classes * (width + 1))
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 20_000, "ftol": 0, "gtol": 1e-10}).x
    return found[: classes * width].reshape(classes, width), found[classes * width :]


def rounding_of(rows: Float, layers: list[tuple[Float, Float]]) -> Float:
    """Largest sum of absolute terms on the way through a perceptron, (N,): what float32 rounds a share of."""
    size = np.abs(rows)
    for weight, bias in layers:
        size = size @ np.abs(weight).T + np.abs(bias)
    return size.max(axis=1)


@dataclass(frozen=True)
class Coupling:
    """x exp(s) + t, s = bound tanh(scale a), t = shift a, a = relu(inner x): each layer (W (out, in), b (out,))."""

    inner: tuple[Float, Float]
    scale: tuple[Float, Float]
    shift: tuple[Float, Float]
    bound: float

    def __call__(self, rows: Float) -> Float:
        bent = np.maximum(rows @ self.inner[0].T + self.inner[1], 0.0)
        grown = self.bound * np.tanh(bent @ self.scale[0].T + self.scale[1])
        return rows * np.exp(grown) + bent @ self.shift[0].T + self.shift[1]


def flow(forward: Callable[[Float], Float], rows: Float, means: Float, deviations: Float) -> Float:
    """-max_c [sum_d log N(y_d; m_cd, s_cd) + log |det dy/dx|] with the determinant of the whole map from differences."""
    out = []
    for row in rows:
        y = forward(row[None])[0]
        densities = [diagonal_log_normal(y, m, np.log(s)) for m, s in zip(means, deviations, strict=True)]
        out.append(-max(densities) - log_volume(forward, row))
    return np.array(out)


def mean_shift(rows: Float, bank: Float, k: int, times: int) -> tuple[Float, Float]:
    """Each row replaced, so many times, by the mean of its k nearest of the bank; and the least gap between the k-th and
    the next distance met on the way, which says whether the neighbours are certain."""
    certain = np.full(len(rows), np.inf)
    for _ in range(times):
        gaps = np.array([np.linalg.norm(bank - row, axis=1) for row in rows])
        order = np.argsort(gaps, axis=1, kind="stable")
        ordered = np.take_along_axis(gaps, order, axis=1)
        certain = np.minimum(certain, ordered[:, k] - ordered[:, k - 1])
        rows = bank[order[:, :k]].mean(axis=1)
    return rows, certain


def log_volume(forward: Callable[[Float], Float], row: Float, step: float = 1e-6) -> float:
    """log |det dy/dx| at one row by central differences."""
    moves = step * np.abs(row).clip(1.0).max() * np.eye(len(row))
    columns = (forward(row + moves) - forward(row - moves)) / (2 * moves[0, 0])
    return float(np.linalg.slogdet(columns.T)[1])


def diagonal_log_normal(rows: Float, mean: Float, log_deviation: Float) -> Float:
    """sum_d log N(y_d; m_d, s_d)."""
    standard = (rows - mean) / np.exp(log_deviation)
    return (-0.5 * standard**2 - log_deviation - 0.5 * np.log(2 * np.pi)).sum(axis=-1)


def gradient_rows(features: Float, logits: Float, places: np.ndarray) -> Float:
    """(p_y - 1) h: the row y of the gradient of the cross entropy of label y in the last weight (Du et al. 2024)."""
    p = softmax(logits, axis=1)[np.arange(len(logits)), places]
    return (p - 1)[:, None] * features


def sal_scores(gradients: Float, groups: np.ndarray, references: Float, of_references: np.ndarray) -> Float:
    """|<g - m_c, v_c>|: m_c the mean gradient of the reference rows of class c, v_c the first right singular vector of
    the centred rows of that class themselves."""
    out = np.zeros(len(gradients))
    for c in np.unique(groups):
        centred = gradients[groups == c] - references[of_references == c].mean(axis=0)
        _, _, directions = np.linalg.svd(centred, full_matrices=False)
        out[groups == c] = np.abs(centred @ directions[0])
    return out
