"""Scores of the features and the logits that the last layer makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from demur.detectors.hyper import between, flag
from demur.detectors.numpy_ops import Array
from demur.detectors.score import EXACT_MERGE, Reference, Scaling
from demur.detectors.scores.class_fit import f32
from demur.detectors.scores.seen import checked_head, feature_mean
from demur.detectors.tensor import Ops, Signal, Signals, T


@dataclass(frozen=True, eq=False)
class FDBD:
    """Minus the mean distance to the decision boundaries, relative to the distance from the mean feature.

    -(mean over c != c^ of |z_c^ - z_c| / |W_c^ - W_c|) / |h - mu|: c^ the predicted class (the first among equals), W_c the
    rows of the last layer, mu the mean of all reference features. A row at mu itself is not finite, unless all its logits
    are equal there too.
    Shapes: features (N, D), logits (N, C) -> (N,). Range: (-inf, 0], dimensionless. Higher is less trustworthy.
    Raises: ValueError in fit without a head of the signals' widths, or when two classes share one row of weights (they
    have no boundary between them).
    Source: Liu & Qin 2024, arXiv:2312.11536, eq. 7, with the regularisation by |h - mu|.
    """

    mean: Array  # (D,)
    closeness: Array  # (C, C), 1 / (C - 1) / |W_a - W_b|, 0 on the diagonal
    inputs: ClassVar[tuple[Signal, ...]] = ("features", "logits")
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Liu & Qin 2024, arXiv:2312.11536, eq. 7"

    @classmethod
    def fit(cls, reference: Reference) -> Self:
        from scipy.spatial.distance import cdist

        weight, _ = checked_head(reference, "fdbd")
        apart = cdist(weight, weight)
        np.fill_diagonal(apart, np.inf)
        if len(weight) < 2 or not apart.min() > 0:
            one, other = np.unravel_index(np.argmin(apart), apart.shape)
            raise ValueError(f"fdbd: expected classes with different weights, got the same for {one} and {other}")
        return cls(f32(feature_mean(reference)), f32(1 / apart / (len(weight) - 1)))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        logits = signals["logits"]
        margins = xp.max(logits, keepdims=True) - logits
        distance = xp.sum(margins * xp.take(self.closeness, xp.argmax(logits)))
        return -(distance / xp.norm(signals["features"] - self.mean))  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class NCI:
    """Minus the pointing of the centred feature towards the predicted class's weights, and minus its length.

    -(W_c^ . (h - mu) / |h - mu| + alpha |h|_1): c^ the predicted class (the first among equals), W its row of the last
    layer, not normalised, mu the mean of all reference features. The first term is 0 where h = mu.
    Shapes: features (N, D), logits (N, C) -> (N,). Range: (-inf, inf), logits per feature length. Higher is less
    trustworthy.
    Raises: ValueError in fit without a head of the signals' widths, or when alpha is negative.
    Source: Liu & Qin 2025, arXiv:2311.01479, eq. 7; differs: alpha is 0.001 for every model where the paper tunes it.
    """

    mean: Array  # (D,)
    weight: Array  # (C, D)
    alpha: float
    inputs: ClassVar[tuple[Signal, ...]] = ("features", "logits")
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Liu & Qin 2025, arXiv:2311.01479, eq. 7"

    @classmethod
    def fit(cls, reference: Reference, *, alpha: float = 1e-3) -> Self:
        between("nci", "alpha", alpha, -1e-300, 1e6)
        weight, _ = checked_head(reference, "nci")
        return cls(f32(feature_mean(reference)), f32(weight), float(alpha))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        features = signals["features"]
        weight = xp.take(self.weight, xp.argmax(signals["logits"]))
        towards = xp.sum(weight * xp.unit(features - self.mean))
        if self.alpha == 0:
            return -towards  # type: ignore[no-any-return]
        return -(towards + self.alpha * xp.sum(xp.abs(features)))  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class GradNorm:
    """Minus the L1 norm of the last layer's gradient of the cross-entropy between the uniform and the predicted law.

    In closed form, -|h|_1 sum_c |p_c - 1/C|, or with `bias`, whose gradient then counts too, -(|h|_1 + 1) sum_c |p_c - 1/C|.
    Shapes: features (N, D), logits (N, C) -> (N,). Range: (-inf, 0], nats per weight. Higher is less trustworthy.
    Raises: ValueError in fit when `bias` is not true or false.
    Source: Huang et al. 2021, arXiv:2110.00218, eq. 4; differs: the closed form in the place of a backward pass.
    """

    bias: bool
    inputs: ClassVar[tuple[Signal, ...]] = ("features", "logits")
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Huang et al. 2021, arXiv:2110.00218, eq. 4"

    @classmethod
    def fit(cls, reference: Reference, *, bias: bool = False) -> Self:  # noqa: ARG003 - nothing to learn
        return cls(flag("grad_norm", "bias", bias))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        p = xp.exp(xp.log_softmax(signals["logits"]))
        uneven = xp.sum(xp.abs(p - xp.mean(p, keepdims=True)))
        length = xp.sum(xp.abs(signals["features"]))
        return -((length + 1.0 if self.bias else length) * uneven)  # type: ignore[no-any-return]
