"""Windows of a time series: how little a patch is like the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from demur.detectors.hyper import one_of, whole
from demur.detectors.numpy_ops import Array
from demur.detectors.score import EXACT_MERGE, Reference, Scaling
from demur.detectors.tensor import Ops, Signal, Signals, T


@dataclass(frozen=True, eq=False)
class SelfSimilarity:
    """1 - how similar a patch of the window is to its patches: A = |E E^T|, rows of E the patches' embeddings at length 1.

    by: mean, the mean over A_i, the patch itself included; by: top, the mean of its k largest similarities to other
    patches. of: newest, the last patch of the window; of: any, the largest over all patches. A zero embedding is similar to
    nothing.
    Shapes: window_embeddings (N, n * d), patch after patch -> (N,). Range: [0, 1]. Higher is less trustworthy.
    Raises: ValueError in fit when `patches` does not divide the width, or k is not below it.
    Source: THEMIS (absolute self-similarity matrix of windowed embeddings; mean and top-k adapters); exact forms are ours.
    """

    weight: Array  # (n, n), of similarities: 1 / n for by: mean, else 1 off the diagonal
    judged: Array  # (n,), 1 of the patches that are judged, else 0
    patches: int
    by: str
    of: str
    k: int
    inputs: ClassVar[tuple[Signal, ...]] = ("window_embeddings",)
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "after THEMIS (windowed absolute self-similarity of embeddings); own exact form"

    @classmethod
    def fit(cls, reference: Reference, *, patches: int, by: str = "mean", of: str = "newest", k: int = 5) -> Self:
        width = next(reference.batches("window_embeddings", size=1)).signals["window_embeddings"].shape[1]
        whole("self_similarity", "patches", patches, least=2)
        if width % patches:
            raise ValueError(f"self_similarity: {patches} patches do not divide window_embeddings of width {width}")
        one_of("self_similarity", "by", by, ("mean", "top"))
        one_of("self_similarity", "of", of, ("newest", "any"))
        if by == "top" and whole("self_similarity", "k", k) >= patches:
            raise ValueError(f"self_similarity: k must be below {patches}, the number of patches; got {k}")
        eye, ones = np.eye(patches), np.ones((patches, patches))
        weight, judged = ones / patches if by == "mean" else ones - eye, eye[-1] if of == "newest" else ones[0]
        return cls(weight.astype(np.float32), judged.astype(np.float32), patches, by, of, k)

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        unit = xp.unit(xp.fold(signals["window_embeddings"], self.patches))
        alike = xp.abs(unit @ xp.swap(unit)) * self.weight
        near = xp.sum(alike) if self.by == "mean" else xp.mean(xp.top(alike, self.k))
        return xp.max((1.0 - near) * self.judged)


def spectral_residual(windows: NDArray[Any], patches: int, k: int = 2) -> NDArray[np.float64]:
    """What the k strongest eigenvectors V of A leave of each patch's similarities: |A_i - V V^T A_i|, (N, n) float64.

    No score, because no graph of ours computes eigenvectors exactly; feed its maximum or last column to `given`. Eigenvectors
    are those of the k eigenvalues largest in size; where the k-th and the next are equal in size, the split is arbitrary.
    Shapes: windows (N, n * d). Rows that are not finite give NaN.
    Raises: ValueError when `patches` does not divide the width or k is not in 1..patches.
    Source: THEMIS (spectral residual adapter; insensitive to k from 2 to 20); exact form is ours.
    """
    rows = np.asarray(windows, np.float64)
    if rows.ndim != 2 or rows.shape[1] % whole("spectral_residual", "patches", patches, least=2):
        raise ValueError(f"spectral_residual: {patches} patches do not divide windows of shape {rows.shape}")
    if whole("spectral_residual", "k", k) > patches:
        raise ValueError(f"spectral_residual: k must be at most {patches}, the number of patches; got {k}")
    broken = np.logical_not(np.isfinite(rows).all(axis=1, keepdims=True))
    folded = np.where(broken, 0.0, rows).reshape(len(rows), patches, -1)
    scaled = folded / np.maximum(np.abs(folded).max(axis=2, keepdims=True), 1e-300)
    unit = scaled / np.maximum(np.linalg.norm(scaled, axis=2, keepdims=True), 1e-300)
    alike = np.abs(unit @ unit.transpose(0, 2, 1))
    values, vectors = np.linalg.eigh(alike)
    strongest = np.argsort(-np.abs(values), axis=1, kind="stable")[:, None, :k]
    basis = np.take_along_axis(vectors, strongest, axis=2)
    left = alike - basis @ (basis.transpose(0, 2, 1) @ alike)
    return np.where(broken, np.nan, np.linalg.norm(left, axis=1))
