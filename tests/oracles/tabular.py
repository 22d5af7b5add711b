"""Outlier scores of tables: densities, trees, tails, histograms, subspaces, magnitudes. Rows are `features` (N, D)."""

from __future__ import annotations

import numpy as np

from tests.oracles.bank import distances
from tests.oracles.sample import Float


def lof(known: Float, asked: Float, k: int = 20) -> Float:
    """Local outlier factor of new rows (Breunig et al. 2000, definitions 3 to 7), neighbours among the known rows only."""
    among = distances(known, known)
    np.fill_diagonal(among, np.inf)
    order = np.argsort(among, axis=1, kind="stable")[:, :k]
    reach_of = np.take_along_axis(among, order, axis=1)[:, -1]

    def density(gaps: Float, near: np.ndarray) -> Float:
        reach = np.maximum(np.take_along_axis(gaps, near, axis=1), reach_of[near])
        return 1.0 / reach.mean(axis=1)

    known_density = density(among, order)
    gaps = distances(known, asked)
    near = np.argsort(gaps, axis=1, kind="stable")[:, :k]
    return known_density[near].mean(axis=1) / density(gaps, near)


def tails(known: Float, asked: Float) -> tuple[Float, Float]:
    """Share of known values at or below, and at or above, each asked value, (N, D) each: counted one by one."""
    left = np.array([(known <= row).mean(axis=0) for row in asked])
    right = np.array([(known >= row).mean(axis=0) for row in asked])
    return left, right


def skewness(known: Float) -> Float:
    centred = known - known.mean(axis=0)
    return (centred**3).mean(axis=0) / (centred**2).mean(axis=0) ** 1.5


def magnitude_weight(bank: Float, asked: Float, scale: float) -> Float:
    """Weight w of each asked row when it joins the bank: Z w = 1, Z_ij = exp(-t |x_i - x_j|) (Leinster 2013, section 2)."""
    out = []
    for row in asked:
        points = np.vstack([bank, row])
        z = np.exp(-scale * distances(points, points))
        out.append(np.linalg.solve(z, np.ones(len(points)))[-1])
    return np.array(out)
