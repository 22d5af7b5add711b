"""Learned heads: what their training must have reached, and what their networks compute."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import expit, softmax

from tests.oracles.sample import Float


def perceptron(rows: Float, layers: list[tuple[Float, Float]], bend: Callable[[Float], Float]) -> Float:
    """rows W' + b of each layer (W (out, in), b (out,)), bent between them."""
    for place, (weight, bias) in enumerate(layers):
        rows = rows @ weight.T + bias
        if place < len(layers) - 1:
            rows = bend(rows)
    return rows


def logistic_slope(rows: Float, targets: Float, weight: Float, bias: float, penalty: float) -> Float:
    """Gradient of sum_i w log-loss + penalty / 2 |W|^2 in (W, b): zero at the optimum, the only one."""
    off = expit(rows @ weight + bias) - targets
    return np.append(rows.T @ off + penalty * weight, off.sum())


def log_volume(forward: Callable[[Float], Float], row: Float, step: float = 1e-6) -> float:
    """log |det dy/dx| at one row by central differences."""
    width = len(row)
    moves = step * np.eye(width)
    columns = (forward(row + moves) - forward(row - moves)) / (2 * step)
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
