"""Scores of the logits alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from demur.detectors.hyper import between
from demur.detectors.score import EXACT_MERGE, Reference, Scaling, k_pass
from demur.detectors.scores.temperature import PASSES, fitted_temperature
from demur.detectors.tensor import Ops, Signal, Signals, T

HOTTEST = 1e6  # beyond it float32 logits differ by less than their rounding


@dataclass(frozen=True, eq=False)
class MSP:
    """One minus the largest probability of softmax(logits / T).

    T is `temperature`: a number, or "fit" for the one in [0.05, 20] with the least mean -log softmax(logits / T)[label]
    over all labelled reference rows, right and wrong.
    Shapes: logits (N, C) -> (N,). Range: [0, 1 - 1/C], a probability; steps of 6e-8 near 0. Higher is less trustworthy.
    Raises: ValueError in fit when the temperature is not positive, or is to be fitted without labels in 0..C-1.
    Source: Hendrycks & Gimpel 2017, arXiv:1610.02136, section 2; differs: the complement, so that higher is worse.
    Fitted temperature: Guo et al. 2017, arXiv:1706.04599, section 4.2.
    """

    temperature: float = 1.0
    inputs: ClassVar[tuple[Signal, ...]] = ("logits",)
    scales: ClassVar[Scaling] = k_pass(PASSES)  # none when the temperature is given
    source: ClassVar[str] = "Hendrycks & Gimpel 2017, arXiv:1610.02136; temperature: Guo et al. 2017, arXiv:1706.04599"

    @classmethod
    def fit(cls, reference: Reference, *, temperature: float | str = 1.0) -> Self:
        if temperature == "fit":
            return cls(fitted_temperature(reference, "msp"))
        return cls(between("msp", "temperature", temperature, 0.0, HOTTEST))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        z = signals["logits"] if self.temperature == 1.0 else signals["logits"] / self.temperature
        return 1.0 - xp.exp(xp.max(xp.log_softmax(z)))  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class MaxLogit:
    """The negative of the largest logit.

    Shapes: logits (N, C) -> (N,). Range: (-inf, inf), nats. Higher is less trustworthy.
    Source: Hendrycks et al. 2022, arXiv:1911.11132, section 3.
    """

    inputs: ClassVar[tuple[Signal, ...]] = ("logits",)
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Hendrycks et al. 2022, arXiv:1911.11132"

    @classmethod
    def fit(cls, reference: Reference) -> Self:  # noqa: ARG003 - nothing to learn
        return cls()

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        return -xp.max(signals["logits"])  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class Energy:
    """Free energy of the logits: E(x) = -T log sum_c exp(f_c(x) / T).

    Shapes: logits (N, C) -> (N,). Range: (-inf, inf), nats. Higher is less trustworthy.
    Raises: ValueError in fit when the temperature is not positive.
    Source: Liu et al. 2020, arXiv:2010.03759, eq. 4.
    """

    temperature: float = 1.0
    inputs: ClassVar[tuple[Signal, ...]] = ("logits",)
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Liu et al. 2020, arXiv:2010.03759, eq. 4"

    @classmethod
    def fit(cls, reference: Reference, *, temperature: float = 1.0) -> Self:  # noqa: ARG003 - nothing to learn
        return cls(between("energy", "temperature", temperature, 0.0, HOTTEST))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        if self.temperature == 1.0:
            return -xp.logsumexp(signals["logits"])  # type: ignore[no-any-return]
        return -self.temperature * xp.logsumexp(signals["logits"] / self.temperature)  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class Entropy:
    """Shannon entropy of the softmax distribution.

    Shapes: logits (N, C) -> (N,). Range: [0, log C], nats. Higher is less trustworthy.
    Source: Shannon 1948, section 6, of the softmax; log-probabilities come from log-softmax, so p log p never is 0 * inf
    for logits within 3e38 of each other.
    """

    inputs: ClassVar[tuple[Signal, ...]] = ("logits",)
    # Every log-probability is a logit less one number of the row: NaN for NaN and inf, and -inf for -inf, times exp(-inf).
    carried: ClassVar[tuple[Signal, ...]] = ("logits",)
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Shannon 1948, A Mathematical Theory of Communication, section 6"

    @classmethod
    def fit(cls, reference: Reference) -> Self:  # noqa: ARG003 - nothing to learn
        return cls()

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        log_p = xp.log_softmax(signals["logits"])
        return -xp.sum(xp.exp(log_p) * log_p)  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class MaxSup:
    """Mean logit minus largest logit: minus what max suppression penalises in training.

    Taken as the mean of z - max z, so an offset common to all logits does not cancel digits.
    Shapes: logits (N, C) -> (N,). Range: (-inf, 0], nats. Higher is less trustworthy.
    Source: Zhou et al. 2025, arXiv:2502.15798, the term z_max - mean z of its loss; differs: the statistic served as a
    score, negated (our use, not the paper's).
    """

    inputs: ClassVar[tuple[Signal, ...]] = ("logits",)
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Zhou et al. 2025, arXiv:2502.15798 (the term of its loss, as a score)"

    @classmethod
    def fit(cls, reference: Reference) -> Self:  # noqa: ARG003 - nothing to learn
        return cls()

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        z = signals["logits"]
        return xp.mean(z - xp.max(z, keepdims=True))
