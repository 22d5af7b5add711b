"""Distances that foreign rows in the reference do not spoil."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from demur.detectors.accumulate import Float64, Sums
from demur.detectors.hyper import between, one_of, whole
from demur.detectors.numpy_ops import Array
from demur.detectors.sample import sample_rows
from demur.detectors.score import Batch, Reference, Scaling, sample
from demur.detectors.scores.class_fit import f32
from demur.detectors.scores.medians import comedian, l1_median
from demur.detectors.scores.vim import principal_dim
from demur.detectors.tensor import Ops, Signal, Signals, T

COMEDIAN_ROWS, SAMPLE_ROWS = 2_000, 20_000


@dataclass(frozen=True, eq=False)
class RobustMahalanobis:
    """Squared Mahalanobis distance of one class to a robust centre under a robust covariance, both shrunk.

    On a seeded sample of n = min(rows, `bank`) rows, whatever their labels: m their L1-median, S their comedian scatter
    (1.4826^2 med((x_j - med x_j)(x_k - med x_k))), v = tr(S)/D. Centre (1 - a) m + a e mean_j(m_j), e all ones, with
    a = t / (t + |m - e mean_j(m_j)|^2), t = (pi / 2n) tr(S). Covariance (1 - b) S + b v I with b = V / (V + |S - v I|_F^2),
    V the sum of the asymptotic variances of the entries of S, 1.4826^4 (pi / 2n) (1.4826 med|y - med y|)^2 of the products
    y; b is raised to the least value with no eigenvalue below v / 1000. Medians cost n D^2 / 2: seconds at D = 512, a
    minute or two at D = 2048.
    Shapes: features (N, D) -> (N,). Range: [0, inf), dimensionless. Higher is less trustworthy.
    Raises: ValueError in fit with under 4 rows, or when more than half of the reference has one value in every feature.
    Source: in the spirit of Cabana, Lillo & Laniado 2021, arXiv:1904.02596 (robust Mahalanobis distance by shrinkage); none
    of its six variants exactly.
    """

    centre: Array  # (D,)
    whiten: Array  # (D, D), whiten @ whiten.T is the precision
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = sample(COMEDIAN_ROWS)
    source: ClassVar[str] = "in the spirit of Cabana et al. 2021, arXiv:1904.02596"

    @classmethod
    def fit(cls, reference: Reference, *, bank: int = COMEDIAN_ROWS, seed: int = 0) -> Self:
        name = "robust_mahalanobis"
        rows = sample_rows(reference, "features", whole(name, "bank", bank), whole(name, "seed", seed, least=0))
        if len(rows) < 4:
            raise ValueError(f"{name}: expected at least 4 reference rows, got {len(rows)}")
        scatter, variance = comedian(rows)
        level = float(np.trace(scatter)) / len(scatter)
        if not level > 0:
            raise ValueError(f"{name}: more than half of the reference has one value in every feature; use mahalanobis")
        values, vectors = np.linalg.eigh(_shrunk(scatter, variance, level))
        return cls(f32(_centre(rows, level * len(scatter))), f32(vectors / np.sqrt(values)))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        z = (signals["features"] - self.centre) @ self.whiten
        return xp.sum(z * z)


def _centre(rows: Float64, trace: float) -> Float64:
    middle = l1_median(rows)
    target = np.full_like(middle, middle.mean())
    noise = np.pi / (2 * len(rows)) * trace
    share = noise / (noise + float(np.sum((middle - target) ** 2)))
    return (1 - share) * middle + share * target


def _shrunk(scatter: Float64, variance: Float64, level: float) -> Float64:
    target = level * np.eye(len(scatter))
    noise, apart = float(variance.sum()), float(np.sum((scatter - target) ** 2))
    share = noise / (noise + apart) if apart > 0 else 0.0
    least = float(np.linalg.eigvalsh(scatter)[0])
    if least < level / 1000:
        share = max(share, (level / 1000 - least) / (level - least))
    return np.asarray((1 - share) * scatter + share * target)


@dataclass(frozen=True, eq=False)
class RobustPCA:
    """Distance to the principal subspace of clipped rows: |h - m - V V'(h - m)|.

    m is the L1-median of a seeded sample of `bank` rows, r the ceil((1 - contamination) n)-th smallest of the sample's n
    distances to m. V (D, dim) are the leading eigenvectors of the mean of y y' over all reference rows,
    y = (h - m) min(1, r / |h - m|): what Oja's rule with norms clipped at r converges to, computed exactly in one pass
    that merges, so that the order of the rows does not matter. Without `dim`, ViM's rule is applied to the rank R of that
    matrix: 1000 for R >= 2048, 512 for R >= 768, else R // 2.
    Shapes: features (N, D) -> (N,). Range: [0, inf), units of the features. Higher is less trustworthy.
    Raises: ValueError in fit when the reference is constant, or `dim` is not below the rank.
    Source: ours; Oja 1982, "Simplified neuron model as a principal component analyzer", for the subspace; the clipping is a
    practical stand-in for Diakonikolas et al. 2023, arXiv:2305.02544 (streaming robust PCA).
    """

    centre: Array  # (D,)
    residual: Array  # (D, D - dim), orthonormal columns
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = sample(SAMPLE_ROWS)
    source: ClassVar[str] = "after Oja 1982, with clipped norms"

    @classmethod
    def fit(
        cls,
        reference: Reference,
        *,
        dim: int | None = None,
        contamination: float = 0.1,
        bank: int = SAMPLE_ROWS,
        seed: int = 0,
    ) -> Self:
        name = "robust_pca"
        between(name, "contamination", contamination, -1e-300, 0.5)
        rows = sample_rows(reference, "features", whole(name, "bank", bank), whole(name, "seed", seed, least=0))
        centre = l1_median(rows)
        distances = np.sort(np.linalg.norm(rows - centre, axis=1))
        radius = float(distances[int(np.ceil((1 - contamination) * len(rows))) - 1])
        if not radius > 0:
            raise ValueError(f"{name}: {1 - contamination:g} of the reference features are the same row")
        values, vectors = np.linalg.eigh(_clipped_moment(reference, centre, radius))
        return cls(f32(centre), f32(vectors[:, : len(values) - principal_dim(name, values, dim)]))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        return xp.norm((signals["features"] - self.centre) @ self.residual)


def _clipped_moment(reference: Reference, centre: Float64, radius: float) -> Float64:
    def part(batch: Batch) -> Sums:
        apart = batch.signals["features"].astype(np.float64) - centre
        length = np.linalg.norm(apart, axis=1, keepdims=True)
        clipped = apart * np.minimum(1.0, radius / np.maximum(length, 1e-300))
        return Sums(len(apart), {"squares": clipped.T @ clipped})

    return reference.reduce(part, "features").mean("squares")


@dataclass(frozen=True, eq=False)
class DRPO:
    """Outlyingness along random directions: mean or maximum over u of |u . h - m_u| / s_u.

    Directions are the rows of numpy's default_rng(`seed`).standard_normal((directions, D)) at unit length; m_u the median
    of the projections of a seeded sample of `bank` rows, s_u their median absolute deviation, at least 1e-4 of the largest
    one, so that the units of the features do not matter.
    Shapes: features (N, D) -> (N,). Range: [0, inf), median absolute deviations. Higher is less trustworthy.
    Raises: ValueError in fit when half of the reference features are the same row.
    Source: Donoho & Gasko 1992, "Breakdown properties of location estimates based on halfspace depth", for the maximum;
    Bauw et al. 2021, arXiv:2106.15307 (DRPO), for the mean; differs: no network is trained, and its floor of s_u is 1e-4
    itself.
    """

    centre: Array  # (D,), coordinate medians of the sample
    directions: Array  # (D, P), unit vectors over s_u
    medians: Array  # (P,), of (h - centre) . u, over s_u
    by: str
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = sample(SAMPLE_ROWS)
    source: ClassVar[str] = "Bauw et al. 2021, arXiv:2106.15307; Donoho & Gasko 1992"

    @classmethod
    def fit(
        cls,
        reference: Reference,
        *,
        directions: int = 256,
        by: str = "mean",
        bank: int = SAMPLE_ROWS,
        seed: int = 0,
    ) -> Self:
        one_of("drpo", "by", by, ("mean", "max"))
        whole("drpo", "directions", directions)
        rows = sample_rows(reference, "features", whole("drpo", "bank", bank), whole("drpo", "seed", seed, least=0))
        drawn = np.random.default_rng(seed).standard_normal((directions, rows.shape[1]))
        units = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).T
        centre = f32(np.median(rows, axis=0))
        projected = (rows - centre) @ units
        medians = np.median(projected, axis=0)
        spread = np.median(np.abs(projected - medians), axis=0)
        if not spread.max() > 0:
            raise ValueError("drpo: half of the reference features are the same row")
        spread = np.maximum(spread, 1e-4 * spread.max())
        return cls(centre, f32(units / spread), f32(medians / spread), by)

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        off = xp.abs((signals["features"] - self.centre) @ self.directions - self.medians)
        return xp.mean(off) if self.by == "mean" else xp.max(off)
