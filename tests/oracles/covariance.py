"""Covariances and the distances they make: per class, shrunk otherwise, robust."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from tests.oracles.distance import class_means, covariance, squared_distance, tied_covariance
from tests.oracles.sample import Float, Sample


def oas_intensity(centred: Float) -> float:
    """Chen, Wiesel, Eldar and Hero 2010, equation 23, as scikit-learn reads it: without its terms of order 2 / p."""
    count, width = centred.shape
    matrix = centred.T @ centred / count
    mean_square, level = np.mean(matrix**2), np.trace(matrix) / width
    spread = (count + 1) * (mean_square - level**2 / width)
    return float(min(1.0, (mean_square + level**2) / spread)) if spread > 0 else 1.0


def shrunk(centred: Float, shrinkage: float | str) -> Float:
    """(1 - a) S + a tr(S) / D I, with a as given, by Ledoit and Wolf or by OAS."""
    return covariance(centred, oas_intensity(centred) if shrinkage == "oas" else shrinkage)


def tied(sample: Sample, shrinkage: float | str) -> Float:
    means = class_means(sample)
    labels = sample.labels[sample.correct]
    return shrunk(sample.features[sample.correct] - np.array([means[int(c)] for c in labels]), shrinkage)


def mahalanobis(sample: Sample, features: Float, shrinkage: float | str) -> Float:
    matrix = tied(sample, shrinkage)
    return np.min([squared_distance(features, mean, matrix) for mean in class_means(sample).values()], axis=0)


def class_mahalanobis(sample: Sample, features: Float, shrinkage: float | str = "ledoit_wolf") -> Float:
    """min_c (h - mu_c)' S_c^-1 (h - mu_c), S_c of the correct rows of class c, each shrunk by itself."""
    matrices = class_covariances(sample, shrinkage)
    means = class_means(sample).values()
    return np.min([squared_distance(features, mean, m) for mean, m in zip(means, matrices, strict=True)], axis=0)


def class_covariances(sample: Sample, shrinkage: float | str) -> list[Float]:
    """In the order of `class_means`."""
    return [
        shrunk(sample.features[(sample.labels == label) & sample.correct] - mean, shrinkage)
        for label, mean in class_means(sample).items()
    ]


def l1_median(rows: Float) -> Float:
    """The point with the least sum of distances to the rows (Weiszfeld 1937)."""
    start = np.median(rows, axis=0)
    centred = rows - start
    point = np.zeros(rows.shape[1])
    for _ in range(10_000):
        gaps = np.maximum(np.linalg.norm(centred - point, axis=1), 1e-300)
        step = (centred / gaps[:, None]).sum(axis=0) / (1 / gaps).sum()
        if np.linalg.norm(step - point) <= 1e-13 * gaps.mean():
            return start + step
        point = step
    raise ArithmeticError("the median did not settle")


def comedian(rows: Float) -> Float:
    """2.198 med((x_i - med x_i)(x_j - med x_j)) of every pair of columns (Falk 1997), 2.198 = 1.4826^2."""
    centred = rows - np.median(rows, axis=0)
    width = rows.shape[1]
    return 1.4826**2 * np.array(
        [[np.median(centred[:, i] * centred[:, j]) for j in range(width)] for i in range(width)]
    )


def class_mixture(sample: Sample, features: Float, shrinkage: float | str = "ledoit_wolf") -> Float:
    """-log sum_c pi_c N(h; mu_c, S): one component a class, of its correct rows, with the tied shrunk covariance."""
    matrix, total = tied_covariance(sample, shrinkage), int(sample.correct.sum())
    terms = []
    for label, mean in class_means(sample).items():
        share = ((sample.labels == label) & sample.correct).sum() / total
        terms.append(np.log(share) + np.atleast_1d(multivariate_normal.logpdf(features, mean, matrix)))
    return -logsumexp(terms, axis=0)


def robust_location_and_scatter(rows: Float) -> tuple[Float, Float]:
    """Cabana, Lillo and Laniado 2021, in spirit: L1-median shrunk to its mean coordinate, comedian scatter to its mean
    eigenvalue.

    a = t / (t + |m - e mean m|^2), t = pi / 2n tr S; b = V / (V + |S - v I|^2), V the sum over the entries of S of the
    variance of a median of n, pi / 2 sigma^2 / n with sigma = 1.4826 MAD of the products, times 1.4826^4; no eigenvalue
    stays below v / 1000.
    """
    count, width = rows.shape
    median, scatter = l1_median(rows), comedian(rows)
    level = np.trace(scatter) / width
    target = np.full(width, median.mean())
    noise = np.pi / (2 * count) * np.trace(scatter)
    a = noise / (noise + np.sum((median - target) ** 2))
    centred = rows - np.median(rows, axis=0)
    spread = 0.0
    for i in range(width):
        for j in range(width):
            product = centred[:, i] * centred[:, j]
            spread += (1.4826 * np.median(np.abs(product - np.median(product)))) ** 2
    variance = 1.4826**4 * np.pi / (2 * count) * spread
    b = variance / (variance + np.sum((scatter - level * np.eye(width)) ** 2))
    least = np.linalg.eigvalsh(scatter)[0]
    if (1 - b) * least + b * level < level / 1000:
        b = (level / 1000 - least) / (level - least)
    return (1 - a) * median + a * target, (1 - b) * scatter + b * level * np.eye(width)
