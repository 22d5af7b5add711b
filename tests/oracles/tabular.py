"""Outlier scores of tables: densities, trees, tails, histograms, subspaces, magnitudes. Rows are `features` (N, D)."""

from __future__ import annotations

import numpy as np

from tests.oracles.bank import distances
from tests.oracles.sample import Float


def lof(known: Float, asked: Float, k: int = 20) -> Float:
    """Local outlier factor of new rows (Breunig et al. 2000, definitions 3 to 7), neighbours among the known rows only.

    1e-10 is added to every mean reach, as scikit-learn does, so that copies have a density.
    """
    among = distances(known, known)
    np.fill_diagonal(among, np.inf)
    order = np.argsort(among, axis=1, kind="stable")[:, :k]
    reach_of = np.take_along_axis(among, order, axis=1)[:, -1]

    def density(gaps: Float, near: np.ndarray) -> Float:
        reach = np.maximum(np.take_along_axis(gaps, near, axis=1), reach_of[near])
        return 1.0 / (reach.mean(axis=1) + 1e-10)

    known_density = density(among, order)
    gaps = distances(known, asked)
    near = np.argsort(gaps, axis=1, kind="stable")[:, :k]
    return known_density[near].mean(axis=1) / density(gaps, near)


def surprises(known: Float, asked: Float) -> tuple[Float, Float]:
    """-log (1 + #{x <= h}) / (n + 1) and -log (1 + #{x >= h}) / (n + 1) of each value, (N, D) each: counted one by one."""
    count = len(known) + 1
    left = np.array([(1 + (known <= row).sum(axis=0)) / count for row in asked])
    right = np.array([(1 + (known >= row).sum(axis=0)) / count for row in asked])
    return -np.log(left), -np.log(right)


def leans_left(known: Float) -> np.ndarray:
    """Columns whose third central moment is negative."""
    return ((known - known.mean(axis=0)) ** 3).mean(axis=0) < 0


def ecod(known: Float, asked: Float) -> Float:
    """Largest of three sums over the columns: left tails, right tails, each column's own (Li et al. 2022, algorithm 1)."""
    left, right = surprises(known, asked)
    own = np.where(leans_left(known), left, right)
    return np.max([left.sum(axis=1), right.sum(axis=1), own.sum(axis=1)], axis=0)


def copod(known: Float, asked: Float) -> Float:
    """sum over the columns of max(own, (left + right) / 2): COPOD as PyOD computes it (Li et al. 2020)."""
    left, right = surprises(known, asked)
    own = np.where(leans_left(known), left, right)
    return np.maximum(own, (left + right) / 2).sum(axis=1)


def hbos(known: Float, asked: Float, bins: int = 10) -> Float:
    """-sum over the columns of log2(height + 0.1), height = bins times the share of known values in the value's bin.

    Goldstein and Dengel 2012 with PyOD's constants: bins [lo, hi), the last closed; values up to half a bin outside
    count as in the outer bin, others have height 0.
    """
    total = np.zeros(len(asked))
    for mine, values in zip(known.T, asked.T, strict=True):
        low, high = mine.min(), mine.max()
        if low == high:
            total -= np.log2(np.where(values == low, bins, 0) + 0.1)
            continue
        edges = np.linspace(low, high, bins + 1).astype(np.float32).astype(np.float64)
        edges[[0, -1]] = low, high
        counts = np.zeros(bins)
        for value in mine:
            counts[min(np.searchsorted(edges, value, side="right") - 1, bins - 1)] += 1
        reach = (high - low) / bins / 2
        for row, value in enumerate(values):
            place = int(np.clip(np.searchsorted(edges, value, side="right") - 1, 0, bins - 1))
            within = low - reach <= value <= high + reach
            total[row] -= np.log2((bins * counts[place] / len(mine) if within else 0.0) + 0.1)
    return total


def principal(known: Float) -> tuple[Float, Float]:
    """Variances (divisor n), falling, and their directions (D, D)."""
    centred = known - known.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(known))
    return values[::-1], vectors[:, ::-1]


def pca_mahalanobis(known: Float, asked: Float, dim: int, least: float) -> Float:
    """sum over the components after `dim` with variance above `least` of the largest of (v.(h - mean))^2 / variance."""
    values, vectors = principal(known)
    along = (asked - known.mean(axis=0)) @ vectors
    used = [j for j in range(dim, len(values)) if values[j] > least * values[0]]
    return (along[:, used] ** 2 / values[used]).sum(axis=1)


def pca_reconstruction(known: Float, asked: Float, dim: int) -> Float:
    """|h - mean| outside the `dim` largest components."""
    _, vectors = principal(known)
    centred = asked - known.mean(axis=0)
    return np.linalg.norm(centred - centred @ vectors[:, :dim] @ vectors[:, :dim].T, axis=1)


def median_gap(bank: Float) -> float:
    """Median distance between different rows."""
    return float(np.median(distances(bank, bank)[np.triu_indices(len(bank), 1)]))


def magnitude_weight(bank: Float, asked: Float, scale: float, ridge: float = 0.0) -> Float:
    """Weight w of each asked row when it joins the bank: (Z + ridge I) w = 1, Z_ij = exp(-t |x_i - x_j|) (Leinster 2013)."""
    count = len(bank)
    z = (1.0 + ridge) * np.eye(count + 1)
    z[:count, :count] = np.exp(-scale * distances(bank, bank)) + ridge * np.eye(count)
    out = []
    for gaps in distances(bank, asked):
        z[count, :count] = z[:count, count] = np.exp(-scale * gaps)
        out.append(np.linalg.solve(z, np.ones(count + 1))[-1])
    return np.array(out)


def path_length_of_search(count: float) -> float:
    """Mean depth of an unsuccessful search in a tree of so many rows (Liu et al. 2008, equation 1)."""
    if count <= 1:
        return 0.0
    return 1.0 if count == 2 else 2.0 * (np.log(count - 1) + np.euler_gamma) - 2.0 * (count - 1) / count
