"""OpenMax: the probability of an unknown class, from how far the logits lie from those of known rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from demur.detectors.accumulate import ClassMoments, Float64
from demur.detectors.hyper import whole
from demur.detectors.numpy_ops import Array
from demur.detectors.score import Batch, Reference, Scaling, k_pass
from demur.detectors.scores.class_fit import f32
from demur.detectors.scores.softmax import class_count
from demur.detectors.scores.temperature import labels_of
from demur.detectors.tensor import Ops, Signal, Signals, T

SHIFT = 10_000.0  # libmr's: far from the origin the Weibull law is close to a Gumbel law, whatever the distances' unit


@dataclass(frozen=True, eq=False)
class OpenMax:
    """The probability of the unknown class after the `alpha` largest logits gave part of themselves to it.

    d is the Euclidean distance of the logits to a class's mean logits over correctly answered rows, and F the Weibull
    law (shape, scale) that is the maximum-likelihood fit to x = d - m + 10000 over the class's `tail` largest such
    distances (all, where there are fewer), m the smallest of them; F(x) = 0 for x <= 0. For the class of rank i = 1 ...
    alpha, by logit, w = (alpha + 1 - i) / alpha * F(d - m + 10000); its logit becomes z (1 - w), and the unknown
    class's is the sum of z w. `alpha` above C counts as C.
    Shapes: logits (N, C) -> (N,). Range: [0, 1], a probability; NaN where logits differ by more
    than 3e38. Higher is less trustworthy.
    Raises: ValueError in fit without labels in 0..C-1, with under 2 classes, or when a class does not have two
    correctly answered rows at different distances among its tail.
    Source: Bendale & Boult 2016, arXiv:1511.06233, algorithms 1 and 2, with the shift of the authors' library libmr;
    differs: the likelihood equation is solved exactly, and the score is the unknown class's probability alone.
    """

    means: Array  # (C, C), row c the mean logits of class c
    least: Array  # (C,), m
    shape: Array  # (C,)
    offset: Array  # (C,), shape * log(10000 / scale)
    ranks: Array  # (alpha,), (alpha + 1 - i) / alpha
    tail: int
    alpha: int
    classes: int  # C
    inputs: ClassVar[tuple[Signal, ...]] = ("logits",)
    scales: ClassVar[Scaling] = k_pass(2)
    source: ClassVar[str] = "Bendale & Boult 2016, arXiv:1511.06233, algorithms 1 and 2"

    @classmethod
    def fit(cls, reference: Reference, *, tail: int = 20, alpha: int = 3) -> Self:
        classes = class_count(reference, "open_max")
        alpha = min(whole("open_max", "alpha", alpha), classes)
        means = _means(reference, classes)
        least, shape, scale = _laws(_tails(reference, means, whole("open_max", "tail", tail, least=2)))
        return cls(
            means=f32(means),
            least=f32(least),
            shape=f32(shape),
            offset=f32(shape * np.log(SHIFT / scale)),
            ranks=f32((alpha - np.arange(alpha)) / alpha),
            tail=tail,
            alpha=alpha,
            classes=classes,
        )

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        z = signals["logits"]
        lowest, places = xp.bottom(-z, self.alpha)
        top = -lowest
        distance = xp.norm(xp.one_part(z) - xp.take(self.means, places))
        given = self._law(xp, distance, places) * self.ranks * top
        unknown = xp.sum(given)
        known = [top - given] if self.alpha == self.classes else [top - given, self._others(xp, z, top)]
        overflow = xp.zero(z - xp.max(z, keepdims=True))  # NaN: the sum over the ranks would be rounding alone
        return xp.exp(unknown - xp.logsumexp(xp.concat([*known, unknown]))) + overflow  # type: ignore[no-any-return]

    def _others(self, xp: Ops[T], z: T, top: T) -> T:
        """Log-sum-exp of the logits below the alpha largest, (N,); sorting them all took 4 times as long."""
        lowest = xp.min(top, keepdims=True)
        below = xp.greater(lowest, z)
        equal = xp.sum(xp.where(below, 0.0, 1.0)) - float(self.alpha)
        return xp.min(top) + xp.log(xp.sum(xp.where(below, xp.exp(z - lowest), 0.0)) + equal)  # type: ignore[no-any-return]

    def _law(self, xp: Ops[T], distance: T, places: T) -> T:
        """F of the distances (N, alpha). Near 10000 the logarithm comes from its series, which float32 would cut off."""
        y = (distance - xp.take(self.least, places)) / SHIFT
        s = y / (2.0 + y)
        series = 2.0 * s * (1.0 + s * s * (1.0 / 3.0 + s * s * 0.2))
        log_x = xp.where(xp.greater(xp.abs(y), 0.1), xp.log(1.0 + y), series)
        power = xp.exp(xp.take(self.shape, places) * log_x + xp.take(self.offset, places))
        return xp.where(xp.greater(y, -1.0), 1.0 - xp.exp(-power), 0.0)


@dataclass(frozen=True, eq=False)
class Tails:
    """The largest distances of each class, ascending, (C, tail); -inf where there are fewer."""

    largest: Float64

    def merge(self, other: Self) -> Self:
        both = np.sort(np.concatenate([self.largest, other.largest], axis=1), axis=1)
        return type(self)(both[:, -self.largest.shape[1] :])


def _correct(batch: Batch, classes: int) -> tuple[Float64, NDArray[np.int64]]:
    return batch.signals["logits"][batch.correct].astype(np.float64), labels_of(batch, classes, "open_max")[
        batch.correct
    ]


def _means(reference: Reference, classes: int) -> Float64:
    moments = reference.reduce(lambda batch: ClassMoments.of(*_correct(batch, classes), classes), "logits")
    few = np.flatnonzero(moments.counts < 2).tolist()
    if few:
        raise ValueError(f"open_max: classes {few} have fewer than 2 correctly answered reference rows")
    return moments.means


def _tails(reference: Reference, means: Float64, tail: int) -> Float64:
    def part(batch: Batch) -> Tails:
        rows, places = _correct(batch, len(means))
        distances = np.linalg.norm(rows - means[places], axis=1)
        largest = np.full((len(means), tail), -np.inf)
        for c in np.unique(places):
            found = np.sort(distances[places == c])[-tail:]
            largest[c, tail - len(found) :] = found
        return Tails(largest)

    return reference.reduce(part, "logits").largest


def _laws(tails: Float64) -> tuple[Float64, Float64, Float64]:
    """Smallest tail distance, shape and scale of each class, (C,) each."""
    fits = [_law_of(c, row[np.isfinite(row)]) for c, row in enumerate(tails)]
    least, shape, scale = np.array(fits).T
    return least, shape, scale


def _law_of(label: int, distances: Float64) -> tuple[float, float, float]:
    """The likelihood equation in the shape k, sum x^k log x / sum x^k - 1/k = mean log x, has one root."""
    from scipy.optimize import brentq

    least = float(distances.min())
    logs = np.log1p((distances - least) / SHIFT)
    if logs.max() <= 0:
        raise ValueError(f"open_max: the correct rows of class {label} all lie at the same distance from their mean")
    below = logs - logs.max()

    def slope(k: float) -> float:
        weights = np.exp(k * below)
        return float(weights @ below / weights.sum() - 1.0 / k - below.mean())

    low, high = 1e-3 / logs.max(), 1.0 / logs.max()
    while slope(high) < 0:
        high *= 4.0
    k = float(brentq(slope, low, high, xtol=1e-12 * low, rtol=1e-13))
    scale = SHIFT * np.exp(logs.max() + np.log(np.mean(np.exp(k * below))) / k)
    return least, k, float(scale)
