"""Scores of tables with missing cells, regressions, windows of time series and photometric maps, from their definitions."""

from __future__ import annotations

import math
import statistics
from fractions import Fraction

import numpy as np

from tests.oracles.sample import Float


def medians(known: Float) -> Float:
    """Of each column's present cells, sorted, the ceil(m / 2)-th."""
    found = []
    for column in known.T:
        there = sorted(value for value in column if not math.isnan(value))
        found.append(there[math.ceil(len(there) / 2) - 1])
    return np.array(found)


def imputed(known: Float, asked: Float) -> tuple[Float, Float]:
    """Rows with the medians in the place of NaN, and 1 where a cell was missing."""
    middle = medians(known)
    mask = np.array([[1.0 if math.isnan(value) else 0.0 for value in row] for row in asked])
    filled = [[middle[d] if math.isnan(value) else value for d, value in enumerate(row)] for row in asked]
    return np.array(filled), mask


def missingness(known: Float, asked: Float) -> Float:
    """-sum log of each column's Laplace frequency of what the row does: missing, or present."""
    n, scores = len(known), []
    lost = [sum(math.isnan(value) for value in column) for column in known.T]
    for row in asked:
        total = 0.0
        for d, value in enumerate(row):
            share = Fraction(lost[d] + 1 if math.isnan(value) else n - lost[d] + 1, n + 2)
            total -= math.log(share)
        scores.append(total)
    return np.array(scores)


def conformal_quantile(scores: Float, coverage: str) -> float:
    """The ceil((n + 1) coverage)-th smallest (Vovk et al. 2005; Lei et al. 2018, theorem 2.2), coverage as a decimal."""
    place = math.ceil((len(scores) + 1) * Fraction(coverage))
    return sorted(scores)[place - 1]


def split_widths(known: tuple[Float, Float, Float], spread: Float, coverage: str) -> Float:
    """2 q s, q the conformal quantile of |y - m| / s; known = (y, m, s) (Lei et al. 2018, section 5.2)."""
    q = conformal_quantile(np.array([abs(y - m) / s for y, m, s in zip(*known, strict=True)]), coverage)
    return np.array([2 * q * s for s in spread])


def cqr_widths(known: tuple[Float, Float, Float], low: Float, high: Float, coverage: str) -> Float:
    """high - low + 2 q, q of max(low - y, y - high); crossing quantiles are put in order, empty intervals have width 0
    (Romano et al. 2019, eq. 6 and 8)."""
    rows = [(y, min(a, b), max(a, b)) for y, a, b in zip(*known, strict=True)]
    q = conformal_quantile(np.array([max(a - y, y - b) for y, a, b in rows]), coverage)
    return np.array([max(0.0, abs(b - a) + 2 * q) for a, b in zip(low, high, strict=True)])


def veracity(known: tuple[Float, Float, Float], asked: tuple[Float, Float, Float]) -> Float:
    """(|y - m| / u) / median, u at least 1e-9 deviations of the known y; known, asked = (y, m, u) (Zhou et al. 2023, eq. 3)."""
    y = known[0]
    floor = 1e-9 * (math.sqrt(sum((v - y.mean()) ** 2 for v in y) / len(y)) or 1.0)

    def ratios(rows: tuple[Float, Float, Float]) -> list[float]:
        return [abs(a - m) / max(u, floor) for a, m, u in zip(*rows, strict=True)]

    middle = statistics.median(ratios(known))
    return np.array(ratios(asked)) / (middle if middle > 0 else 1.0)


def similarities(window: Float) -> Float:
    """A = |E E^T| of one window's patches (n, d), rows of E of length 1; a zero row is similar to nothing."""
    unit = []
    for row in window:
        length = math.sqrt(sum(v * v for v in row))
        unit.append([v / length if length else 0.0 for v in row])
    return np.array([[abs(sum(a * b for a, b in zip(p, q, strict=True))) for q in unit] for p in unit])


def self_similarity(windows: Float, by: str = "mean", of: str = "newest", k: int = 5) -> Float:
    """1 - the mean over A_i, or over its k largest entries but A_ii; of the newest patch, or the largest over all."""
    scores = []
    for window in windows:
        a, each = similarities(window), []
        for i in range(len(a)):
            others = sorted((a[i, j] for j in range(len(a)) if j != i), reverse=True)
            each.append(1 - (sum(a[i]) / len(a) if by == "mean" else sum(others[:k]) / k))
        scores.append(each[-1] if of == "newest" else max(each))
    return np.array(scores)


def spectral_residual(window: Float, k: int) -> Float:
    """|A_i - V V^T A_i| of each patch, V the eigenvectors of the k largest |eigenvalues| of A, by deflation."""
    a = similarities(window)
    values, vectors = np.linalg.eigh(a)
    rest = a.copy()
    for place in sorted(range(len(values)), key=lambda i: -abs(values[i]))[:k]:
        v = vectors[:, place]
        rest = rest - np.outer(v, v @ a)
    return np.array([math.sqrt(sum(x * x for x in column)) for column in rest.T])


def reconstruction(known_off: Float, off: Float, channels: int, by: str = "mean") -> Float:
    """Of errors (N, T, C): mean or max over t, c of e^2 / s_c^2, s_c^2 the known rows' mean square of the channel."""
    squares = [np.mean([row[t, c] ** 2 for row in known_off for t in range(row.shape[0])]) for c in range(channels)]
    scores = []
    for row in off:
        parts = [row[t, c] ** 2 / (squares[c] or 1.0) for t in range(row.shape[0]) for c in range(channels)]
        scores.append(max(parts) if by == "max" else sum(parts) / len(parts))
    return np.array(scores)


def photometric(maps: Float, k: float) -> Float:
    """Share of the pixels with e > mean + k std of their own map, std with the divisor n."""
    scores = []
    for row in maps:
        mean = math.fsum(row) / len(row)
        std = math.sqrt(math.fsum((e - mean) ** 2 for e in row) / len(row))
        limit = mean + k * std if std > 0 else math.inf
        scores.append(sum(e > limit for e in row) / len(row))
    return np.array(scores)
