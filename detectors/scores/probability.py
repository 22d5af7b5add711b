"""Scores of the softmax distribution's shape."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from demur.detectors.hyper import between, one_of, whole
from demur.detectors.score import EXACT_MERGE, Reference, Scaling
from demur.detectors.scores.logit import HOTTEST
from demur.detectors.scores.softmax import class_count, parts
from demur.detectors.tensor import Ops, Signal, Signals, T

LOG_HALF = math.log(0.5)
LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True, eq=False)
class Margin:
    """The second largest logit minus the largest, or the same of the softmax probabilities.

    Shapes: logits (N, C) -> (N,). Range: (-inf, 0], nats; by probabilities [-1, 0]. Higher is less trustworthy.
    Raises: ValueError in fit with under 2 classes, or an unknown `by`.
    Source: Scheffer et al. 2001, IDA, section 3 (probabilities); differs: negated, so that higher is worse.
    """

    by: str
    inputs: ClassVar[tuple[Signal, ...]] = ("logits",)
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Scheffer et al. 2001, Active Hidden Markov Models for Information Extraction, section 3"

    @classmethod
    def fit(cls, reference: Reference, *, by: str = "logits") -> Self:
        class_count(reference, "margin")
        return cls(one_of("margin", "by", by, ("logits", "probabilities")))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        x = signals["logits"]
        if self.by == "probabilities":
            x = xp.exp(xp.log_softmax(x))
        return xp.min(xp.top(x, 2)) - xp.max(x)  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class GEN:
    """Generalised entropy: the sum of p^g (1 - p)^g over the M most probable classes.

    In log space: exp(g (log p + log(1 - p))), with log(1 - p) of a class that has more than half from the log-sum-exp of
    the others.
    g is `gamma`, M is `top` or the number of classes if that is smaller.
    Shapes: logits (N, C) -> (N,). Range: [0, M 4^-g], dimensionless. Higher is less trustworthy.
    Raises: ValueError in fit when gamma is not in (0, 1], top is no whole number above 0, or with under 2 classes.
    Source: Liu et al. 2023, CVPR, "GEN: Pushing the Limits of Softmax-Based Out-of-Distribution Detection", section 3;
    differs: negated confidence, no clamping of p (a clamp at 1e-7 moves scores by up to 46 % and ties confident rows).
    """

    gamma: float
    top: int
    classes: int  # C
    inputs: ClassVar[tuple[Signal, ...]] = ("logits",)
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Liu et al. 2023, CVPR, GEN: Pushing the Limits of Softmax-Based OOD Detection"

    @classmethod
    def fit(cls, reference: Reference, *, gamma: float = 0.1, top: int = 100) -> Self:
        classes = class_count(reference, "gen")
        return cls(between("gen", "gamma", gamma, 0.0, 1.0), min(whole("gen", "top", top), classes), classes)

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        log_p = xp.log_softmax(signals["logits"])
        largest = log_p if self.top == self.classes else xp.top(log_p, self.top, ordered=False)
        rest = xp.logsumexp(xp.where(xp.greater(log_p, LOG_HALF), LOWEST, log_p))
        log_q = xp.where(xp.greater(largest, LOG_HALF), xp.concat([rest]), xp.log(1.0 - xp.exp(largest)))
        return xp.sum(xp.exp(self.gamma * (largest + log_q)))


@dataclass(frozen=True, eq=False)
class Doctor:
    """The odds of an error: (1 - S) / S with S = sum p^2 (alpha), or (1 - max p) / max p (beta).

    1 - S and 1 - max p are sums over the other classes where one class has more than half: exact near 0.
    Shapes: logits (N, C) -> (N,). Range: [0, C - 1], dimensionless. Higher is less trustworthy.
    Raises: ValueError in fit with under 2 classes, or an unknown `by`.
    Source: Granese et al. 2021, arXiv:2106.02395, the discriminators D_alpha and D_beta; differs: no input perturbation.
    """

    by: str
    inputs: ClassVar[tuple[Signal, ...]] = ("logits",)
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Granese et al. 2021, arXiv:2106.02395 (D_alpha, D_beta)"

    @classmethod
    def fit(cls, reference: Reference, *, by: str = "alpha") -> Self:
        class_count(reference, "doctor")
        return cls(one_of("doctor", "by", by, ("alpha", "beta")))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        first, rest, squares = parts(xp, xp.log_softmax(signals["logits"]))
        if self.by == "beta":
            return rest / first  # type: ignore[no-any-return]
        return (rest * (1.0 + first) - squares) / (first * first + squares)  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class ODIN:
    """1/C - max softmax(logits / T): ODIN's temperature part.

    With 1/C in the place of 1: at T = 1000 every 1 - max p lies next to 1 - 1/C, where float32 has some 170 values for
    1000 classes. The difference is taken as -mean(1 - e) / sum(e), e = exp((z - max z) / T), 1 - e from tanh: exact to
    rounding, so the order of the rows is kept.
    Shapes: logits (N, C) -> (N,). Range: [1/C - 1, 0], a probability. Higher is less trustworthy.
    Raises: ValueError in fit when the temperature is not positive, or with under 2 classes.
    Source: Liang et al. 2018, arXiv:1706.02690, eq. 1; differs: no input perturbation, which needs gradients.
    """

    temperature: float
    inputs: ClassVar[tuple[Signal, ...]] = ("logits",)
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Liang et al. 2018, arXiv:1706.02690, eq. 1 (no input perturbation)"

    @classmethod
    def fit(cls, reference: Reference, *, temperature: float = 1000.0) -> Self:
        class_count(reference, "odin")
        return cls(between("odin", "temperature", temperature, 0.0, HOTTEST))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        z = signals["logits"]
        below = (z - xp.max(z, keepdims=True)) / self.temperature
        half = xp.tanh(-0.5 * below)
        missing = xp.mean(2.0 * half / (1.0 + half))
        return -missing / xp.sum(xp.exp(below))  # type: ignore[no-any-return]
