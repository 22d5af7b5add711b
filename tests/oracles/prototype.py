"""Scores of features h (N, D) against few stored things: class patterns, boxes, projections, a subspace."""

from __future__ import annotations

import numpy as np

from tests.oracles.distance import class_means, unit, vim_residual
from tests.oracles.sample import Float, Sample


def she(sample: Sample, features: Float, logits: Float, metric: str = "inner_product") -> Float:
    """-h . S_c^ with S_c the mean correct feature of class c, c^ the predicted class (Zhang et al. 2023, equation 5)."""
    means = class_means(sample)
    stored = np.array([means[int(c)] for c in logits.argmax(axis=1)])
    if metric == "cosine":
        return 1.0 - (unit(features) * unit(stored)).sum(axis=1)
    if metric == "euclidean":
        return np.linalg.norm(features - stored, axis=1)
    return -(features * stored).sum(axis=1)


def residual(sample: Sample, features: Float, dim: int | None = None) -> Float:
    """ViM's first term alone (Wang et al. 2022, equation 4)."""
    return vim_residual(sample, features, dim)


def box_depth(features: Float, low: Float, high: Float, off: float = 0.0) -> Float:
    """min over boxes of max_d |h_d - c_d| / (w_d / 2 + 1e-20) (Henzinger et al. 2020, graded); corners (N, boxes, D).

    With `off`, the offset h_d - c_d taken to be that share of its terms larger (or smaller).
    """
    centre, half = (low + high) / 2, (high - low) / 2
    terms = np.abs(features[:, None]) + np.abs(low) + np.abs(high)
    gaps = np.maximum(np.abs(features[:, None] - centre) + off * terms, 0.0)
    return (gaps / (half + 1e-20)).max(axis=2).min(axis=1)


def projection_outlyingness(
    features: Float, directions: Float, median: Float, spread: Float, by: str = "mean"
) -> Float:
    """Mean or maximum over directions u (P, D) of |u . h - m_u| / s_u (Donoho and Gasko 1992; DRPO takes the mean)."""
    offs = np.abs(features @ directions.T - median) / spread
    return offs.mean(axis=1) if by == "mean" else offs.max(axis=1)


def median_and_spread(projected: Float) -> tuple[Float, Float]:
    """Median, and median absolute deviation of at least 1e-4 of the largest, of each column."""
    median = np.median(projected, axis=0)
    deviation = np.median(np.abs(projected - median), axis=0)
    return median, np.maximum(deviation, 1e-4 * deviation.max())


def random_directions(count: int, width: int, seed: int) -> Float:
    return unit(np.random.default_rng(seed).standard_normal((count, width)))


def clipped_subspace(rows: Float, centre: Float, contamination: float, dim: int) -> Float:
    """Leading eigenvectors (D, dim) of mean y y', y = (h - m) min(1, r / |h - m|), r the ceil((1 - c) n)-th distance."""
    gaps = np.linalg.norm(rows - centre, axis=1)
    reach = np.sort(gaps)[int(np.ceil((1 - contamination) * len(rows))) - 1]
    clipped = (rows - centre) * np.minimum(1.0, reach / np.maximum(gaps, 1e-300))[:, None]
    _, vectors = np.linalg.eigh(clipped.T @ clipped / len(rows))
    return vectors[:, ::-1][:, :dim]


def beyond_subspace(features: Float, mean: Float, basis: Float) -> Float:
    """|h - mu - V V'(h - mu)|, V (D, k) orthonormal."""
    centred = features - mean
    return np.linalg.norm(centred - centred @ basis @ basis.T, axis=1)


def mean_shifted(rows: Float, features: Float, k: int = 2) -> Float:
    """Sum of squared distances between theta(x) and its k nearest, theta(x) = unit(unit(h) - c), c the mean unit row
    (Reiss and Hoshen 2023, equation 5; neighbours among theta's)."""
    centre = unit(rows[rows.any(axis=1)]).mean(axis=0)
    known, asked = unit(unit(rows[rows.any(axis=1)]) - centre), unit(unit(features) - centre)
    distances = np.array([np.sum((known - row) ** 2, axis=1) for row in asked])
    return np.sort(distances, axis=1)[:, :k].sum(axis=1)
