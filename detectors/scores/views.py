"""Several views of one input: how unsure they are together, and how far they disagree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from demur.detectors.hyper import between, one_of, whole
from demur.detectors.numpy_ops import Array
from demur.detectors.score import EXACT_MERGE, Reference, Scaling
from demur.detectors.tensor import Ops, Signal, Signals, T

TURNS = 4  # 0, 90, 180 and 270 degrees


def _classes(reference: Reference, score: str, views: int, *, least: int = 2) -> int:
    """C of `view_logits` (N, V * C). Raises: ValueError unless V >= `least` views of at least 2 classes fill the width."""
    whole(score, "views", views, least=least)
    width = next(reference.batches("view_logits", size=1)).signals["view_logits"].shape[1]
    if width % views or width // views < 2:
        raise ValueError(f"{score}: {views} views of at least 2 classes do not divide view_logits of width {width}")
    return int(width // views)


def _log_posteriors(xp: Ops[T], signals: Signals[T], views: int) -> T:
    """Log softmax of each view: (N, V, C)."""
    return xp.log_softmax(xp.fold(signals["view_logits"], views))


def _log_mean(xp: Ops[T], log_p: T, views: int) -> T:
    """Log of the mean posterior over the views: (N, V, C) -> (N, C)."""
    return xp.logsumexp(xp.swap(log_p)) - float(np.log(views))  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class Cover:
    """Mean over the views of a confidence, negated: -max softmax(z / T), or -T logsumexp(z / T) for `by: energy`.

    The views are the input and corrupted copies of it, or anything else that the same model was asked about.
    Shapes: view_logits (N, V * C), view after view -> (N,). Range: msp [-1, -1/C]; energy (-inf, inf), nats. Higher is less
    trustworthy.
    Raises: ValueError in fit when `views` does not divide the width.
    Source: Chen et al. 2024, CoVer (What if the input is expanded in OOD detection?), mean over the expanded inputs.
    """

    views: int
    by: str
    temperature: float
    inputs: ClassVar[tuple[Signal, ...]] = ("view_logits",)
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Chen et al. 2024, What if the input is expanded in OOD detection? (CoVer)"

    @classmethod
    def fit(cls, reference: Reference, *, views: int, by: str = "msp", temperature: float = 1.0) -> Self:
        _classes(reference, "cover", views, least=1)
        one_of("cover", "by", by, ("msp", "energy"))
        return cls(views, by, between("cover", "temperature", temperature, 0.0, 1e6))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        z = xp.fold(signals["view_logits"], self.views) / self.temperature
        if self.by == "energy":
            return xp.mean(xp.logsumexp(z)) * -self.temperature  # type: ignore[no-any-return]
        return -xp.mean(xp.exp(xp.max(xp.log_softmax(z))))  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class PredictiveEntropy:
    """Entropy of the mean posterior of the views: everything that is unsure, in the data and in the model.

    Shapes: view_logits (N, V * C), view after view -> (N,). Range: [0, log C], nats. Higher is less trustworthy.
    Raises: ValueError in fit when `views` does not divide the width.
    Source: Gal 2016, Uncertainty in Deep Learning, section 3.3.1.
    """

    views: int
    inputs: ClassVar[tuple[Signal, ...]] = ("view_logits",)
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Gal 2016, Uncertainty in Deep Learning, section 3.3.1 (predictive entropy)"

    @classmethod
    def fit(cls, reference: Reference, *, views: int) -> Self:
        _classes(reference, "predictive_entropy", views, least=1)
        return cls(views)

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        log_mean = _log_mean(xp, _log_posteriors(xp, signals, self.views), self.views)
        return -xp.sum(xp.exp(log_mean) * log_mean)  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class BALD:
    """Mutual information of the answer and the view: what is unsure in the model alone.

    Entropy of the mean posterior less the mean entropy, taken as the mean over the views of KL(p_v || mean p).
    Shapes: view_logits (N, V * C), view after view -> (N,). Range: [0, log min(V, C)], nats. Higher is less trustworthy.
    Raises: ValueError in fit with under 2 views, or when `views` does not divide the width.
    Source: Houlsby et al. 2011, arXiv:1112.5745, eq. 2.
    """

    views: int
    inputs: ClassVar[tuple[Signal, ...]] = ("view_logits",)
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Houlsby et al. 2011, arXiv:1112.5745, eq. 2"

    @classmethod
    def fit(cls, reference: Reference, *, views: int) -> Self:
        _classes(reference, "bald", views)
        return cls(views)

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        log_p = _log_posteriors(xp, signals, self.views)
        log_mean = xp.one_part(_log_mean(xp, log_p, self.views))
        return xp.mean(xp.sum(xp.exp(log_p) * (log_p - log_mean)))


@dataclass(frozen=True, eq=False)
class VariationRatio:
    """Share of the views that do not vote for the class most voted for. A view's vote is its first largest logit.

    Shapes: view_logits (N, V * C), view after view -> (N,). Range: [0, 1 - 1/V], in steps of 1/V. Higher is less
    trustworthy.
    Raises: ValueError in fit with under 2 views, or when `views` does not divide the width.
    Source: Freeman 1965, Elementary Applied Statistics; Gal 2016, section 3.3.1.
    """

    places: Array  # (C,), 0 .. C - 1
    views: int
    inputs: ClassVar[tuple[Signal, ...]] = ("view_logits",)
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Freeman 1965, Elementary Applied Statistics; Gal 2016, section 3.3.1"

    @classmethod
    def fit(cls, reference: Reference, *, views: int) -> Self:
        return cls(np.arange(_classes(reference, "variation_ratio", views), dtype=np.float32), views)

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        z = xp.fold(signals["view_logits"], self.views)
        places: Any = self.places
        among = xp.where(xp.greater(xp.max(z, keepdims=True), z), 1e9, places)
        vote = xp.min(among, keepdims=True)
        missed = xp.where(xp.greater(xp.abs(vote - places), 0.5), 1.0, 0.0)
        return xp.min(xp.mean(xp.swap(missed)))


@dataclass(frozen=True, eq=False)
class Disagreement:
    """How far the views' posteriors lie apart.

    `by: total_variation`: mean over the pairs of views of half the L1 distance. `by: variance`: sum over the classes of the
    variance over the views (divided by V).
    Shapes: view_logits (N, V * C), view after view -> (N,). Range: [0, 1]. Higher is less trustworthy.
    Raises: ValueError in fit with under 2 views, an unknown `by`, or when `views` does not divide the width.
    Source: Lakshminarayanan et al. 2017, arXiv:1612.01474 (ensembles); the DivCon form: divergence of the posteriors.
    """

    weights: Array  # (V,), of the views, sorted descending, in the sum of |p_i - p_j|; of the squares
    views: int
    by: str
    inputs: ClassVar[tuple[Signal, ...]] = ("view_logits",)
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Lakshminarayanan et al. 2017, arXiv:1612.01474 (disagreement of an ensemble)"

    @classmethod
    def fit(cls, reference: Reference, *, views: int, by: str = "total_variation") -> Self:
        _classes(reference, "disagreement", views)
        one_of("disagreement", "by", by, ("total_variation", "variance"))
        weights = (views - 1 - 2 * np.arange(views)) / (views * (views - 1.0))
        if by == "variance":
            weights = np.full(views, 1 / views)
        return cls(weights.astype(np.float32), views, by)

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        p = xp.swap(xp.exp(_log_posteriors(xp, signals, self.views)))
        if self.by == "variance":
            apart = p - xp.mean(p, keepdims=True)
            return xp.sum(xp.sum(apart * apart * self.weights))
        shifted = p - xp.min(p, keepdims=True)  # equal views give 0 whatever the weights round to
        return xp.sum(xp.sum(xp.top(shifted, self.views) * self.weights))


@dataclass(frozen=True, eq=False)
class Rotation:
    """How badly a rotation head tells the four turns of the input: the sum over the turns r of -log softmax(z_r)_r.

    Shapes: rotation_logits (N, 16), the 4 logits of each of the 4 turned inputs -> (N,). Range: [0, inf), nats. Higher is
    less trustworthy.
    Raises: ValueError in fit when rotation_logits is not 16 wide.
    Source: Hendrycks et al. 2019, arXiv:1906.12340, section 4 (rotation prediction).
    """

    told: Array  # (4, 4), the identity
    inputs: ClassVar[tuple[Signal, ...]] = ("rotation_logits",)
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Hendrycks et al. 2019, arXiv:1906.12340, section 4"

    @classmethod
    def fit(cls, reference: Reference) -> Self:
        width = next(reference.batches("rotation_logits", size=1)).signals["rotation_logits"].shape[1]
        if width != TURNS**2:
            raise ValueError(f"rotation: expected rotation_logits of width {TURNS**2}, got {width}")
        return cls(np.eye(TURNS, dtype=np.float32))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        log_p = xp.log_softmax(xp.fold(signals["rotation_logits"], TURNS))
        return -xp.sum(xp.sum(log_p * self.told))  # type: ignore[no-any-return]
