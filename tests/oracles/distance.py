"""Scores of features h (N, D): Mahalanobis distances, neighbours, residual subspace."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from tests.oracles.logit import energy
from tests.oracles.sample import Float, Sample


def ledoit_wolf_intensity(centred: Float) -> float:
    """b^2 / d^2 of Ledoit and Wolf 2004, section 3.3, for centred rows: the weight of the scaled identity.

    <A, B> = tr(A B') / p; m = <S, I>; d^2 = |S - m I|^2; b^2 = min(d^2, sum_k |x_k x_k' - S|^2 / n^2).
    """
    count, width = centred.shape
    covariance = centred.T @ centred / count
    scale = np.trace(covariance) / width
    d2 = np.sum((covariance - scale * np.eye(width)) ** 2) / width
    spread = sum(np.sum((np.outer(row, row) - covariance) ** 2) / width for row in centred)
    return float(min(spread / count**2, d2) / d2) if d2 > 0 else 0.0


def covariance(centred: Float, shrinkage: float | str) -> Float:
    """(1 - a) S + a (tr S / D) I, S = X'X / n."""
    count, width = centred.shape
    weight = ledoit_wolf_intensity(centred) if shrinkage == "ledoit_wolf" else float(shrinkage)
    empirical = centred.T @ centred / count
    return (1.0 - weight) * empirical + weight * np.trace(empirical) / width * np.eye(width)


def squared_distance(rows: Float, mean: Float, matrix: Float) -> Float:
    """(h - mu)' matrix^-1 (h - mu) of each row."""
    centred = rows - mean
    return np.sum(centred * np.linalg.solve(matrix, centred.T).T, axis=1)


def class_means(sample: Sample) -> dict[int, Float]:
    """Mean feature of the rows of each class that the model got right."""
    return {
        int(c): sample.features[(sample.labels == c) & sample.correct].mean(axis=0)
        for c in np.unique(sample.labels[sample.correct])
    }


def tied_covariance(sample: Sample, shrinkage: float | str) -> Float:
    """Within-class covariance, pooled over the classes; correctly classified rows only."""
    means = class_means(sample)
    rows, labels = sample.features[sample.correct], sample.labels[sample.correct]
    return covariance(rows - np.array([means[int(c)] for c in labels]), shrinkage)


def mahalanobis(sample: Sample, features: Float, shrinkage: float | str = "ledoit_wolf") -> Float:
    """min_c (h - mu_c)' S^-1 (h - mu_c) (Lee et al. 2018, equation 2, without the minus)."""
    matrix = tied_covariance(sample, shrinkage)
    return np.min([squared_distance(features, mean, matrix) for mean in class_means(sample).values()], axis=0)


def relative_mahalanobis(sample: Sample, features: Float, shrinkage: float | str = "ledoit_wolf") -> Float:
    """min_c d_c^2 - d_0^2, the background Gaussian fitted to all rows whatever their class (Ren et al. 2021, section 3)."""
    mean = sample.features.mean(axis=0)
    background = covariance(sample.features - mean, shrinkage)
    return mahalanobis(sample, features, shrinkage) - squared_distance(features, mean, background)


def relative_mahalanobis_one_shrinkage(
    sample: Sample, features: Float, shrinkage: float | str = "ledoit_wolf"
) -> Float:
    """The product's documented variant: only right rows, and background covariance = shrunk within + between.

    Without shrinkage and with every row right it is the paper's, because the total covariance is the sum of the two
    (the law of total covariance); `test_oracles` checks that against `relative_mahalanobis`.
    """
    labels = sample.labels[sample.correct]
    means = class_means(sample)
    centre = sample.features[sample.correct].mean(axis=0)
    offsets = np.array([means[int(c)] - centre for c in labels])  # one per row: classes weigh by their counts
    background = tied_covariance(sample, shrinkage) + offsets.T @ offsets / len(offsets)
    return mahalanobis(sample, features, shrinkage) - squared_distance(features, centre, background)


def unit(rows: Float) -> Float:
    """h / |h|; a zero row stays zero."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)


def knn_cosine(bank: Float, features: Float, k: int) -> Float:
    """k-th smallest 1 - cos(h, bank) (Sun et al. 2022: |u - v|^2 = 2 (1 - cos) of unit features); 1 for a zero vector.

    Taken from differences of unit vectors: 1 - cos loses half the digits for neighbours.
    """
    known, asked = unit(bank), unit(features)
    distances = np.array([0.5 * np.sum((known - row) ** 2, axis=1) for row in asked])
    distances = distances[:, bank.any(axis=1)]  # a row without direction is nobody's neighbour, as KNN documents
    distances[~features.any(axis=1)] = 1.0
    return np.sort(distances, axis=1)[:, k - 1]


def vim_dim(width: int) -> int:
    """Dimension of the principal space, Wang et al. 2022: 1000 for D >= 2048, 512 for D >= 768, else D / 2.

    ViM documents that it applies the rule to the rank of the reference features, so that it is defined when D > N.
    """
    return 1000 if width >= 2048 else 512 if width >= 768 else width // 2


def feature_rank(rows: Float) -> int:
    """Singular values above the rounding of float32 features, 1e-6 of the largest."""
    values = np.linalg.svd(rows, compute_uv=False)
    return int(np.sum(values > 1e-6 * values[0]))


def vim_origin(sample: Sample) -> Float:
    """u = -W^+ b: the feature that the head maps closest to zero logits."""
    return -np.linalg.pinv(sample.head_weight) @ sample.head_bias


def vim_residual(sample: Sample, features: Float, dim: int | None = None) -> Float:
    """|(h - u) N|, N the eigenvectors of E[(h - u)(h - u)'] beyond the `dim` largest."""
    origin = vim_origin(sample)
    shifted = sample.features - origin
    _, vectors = np.linalg.eigh(shifted.T @ shifted / len(shifted))  # ascending
    width, rank = shifted.shape[1], feature_rank(shifted)
    null_space = vectors[:, : width - (vim_dim(rank) if dim is None else dim)]
    return np.linalg.norm((features - origin) @ null_space, axis=1)


def vim_alpha(sample: Sample, dim: int | None = None) -> float:
    """sum_i max_c z_ic / sum_i |residual_i|, over the reference."""
    return float(sample.logits.max(axis=1).mean() / vim_residual(sample, sample.features, dim).mean())


def vim(sample: Sample, features: Float, logits: Float, dim: int | None = None) -> Float:
    """alpha |residual| - logsumexp(z): the logarithm of the virtual logit's odds (Wang et al. 2022, section 4)."""
    return vim_alpha(sample, dim) * vim_residual(sample, features, dim) - logsumexp(logits, axis=1)


def react_clip(sample: Sample, quantile: float) -> float:
    """One global quantile of all activations of the reference (Sun et al. 2021, section 3).

    The paper does not say which definition; ReAct documents the ceil(q n)-th smallest, NumPy's inverted_cdf.
    """
    return float(np.quantile(sample.features, quantile, method="inverted_cdf"))


def react_energy(sample: Sample, features: Float, quantile: float = 0.9, temperature: float = 1.0) -> Float:
    """Energy of W min(h, c) + b."""
    clipped = np.minimum(features, react_clip(sample, quantile))
    return energy(clipped @ sample.head_weight.T + sample.head_bias, temperature)


def nearest_rows(points: Float, rows: Float) -> tuple[NDArray[np.int64], Float]:
    """For each point, the index of the nearest row and the distance to it: names the rows a bank sampled."""
    distances = np.array([np.linalg.norm(rows - point, axis=1) for point in points])
    return distances.argmin(axis=1), distances.min(axis=1)
