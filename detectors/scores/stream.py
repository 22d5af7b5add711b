"""Scores of a growing sequence: fixed-size state, one step at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from demur.detectors.hyper import one_of, whole
from demur.detectors.numpy_ops import TINY
from demur.detectors.score import EXACT_MERGE, Reference, Scaling
from demur.detectors.tensor import Ops, Signal, Signals, T

# Log-probabilities rounded up by a server may exceed 0 by a little; beyond this they are none, and the step is invalid.
ROUNDING = 1e-3


@dataclass(frozen=True, eq=False)
class MeanNLL:
    """Running mean of the negative log-probability of the generated tokens.

    State: the mean and the number of tokens. The mean is updated by differences, so that long streams do not drift.
    Shapes: state (M, 2), token_logprob (M, 1) -> (M, 2), (M,). Range: [0, inf), nats. Higher is less trustworthy.
    A log-probability above 0 gives no score.
    Source: Jelinek et al. 1977, JASA 62, S63, log of perplexity, not exponentiated.
    """

    state_width: ClassVar[int] = 2
    inputs: ClassVar[tuple[Signal, ...]] = ("token_logprob",)
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Jelinek et al. 1977, JASA 62, S63 (log perplexity)"

    @classmethod
    def fit(cls, reference: Reference | None = None) -> Self:  # noqa: ARG003 - nothing to learn
        return cls()

    def __call__(self, xp: Ops[T], state: tuple[T, ...], signals: Signals[T]) -> tuple[tuple[T, ...], T]:
        log_p = xp.column(signals["token_logprob"])
        return running_mean(xp, state, xp.where(xp.greater(log_p, ROUNDING), float("nan"), -log_p))


@dataclass(frozen=True, eq=False)
class EntropyInterval:
    """Running mean of an exact bound on the next-token entropy, from the k largest log-probabilities alone.

    With p the known probabilities, r = 1 - sum p and q the smallest of them (no unseen token exceeds it):
    lower = H - n q log q - t log t with n = floor(r / q), t = r - n q; upper = H - r log(r / (V - k)), where
    H = -sum p log p. A step without any known probability gives no score.
    Shapes: state (M, 2), topk_logprobs (M, K), topk_mask (M, K) of 0 and 1 -> (M, 2), (M,). Masked log-probabilities
    are finite, 0 by convention; their order does not matter. Range: [0, log V], nats. Higher is less trustworthy.
    Raises: ValueError in fit for an unknown bound or a vocabulary under 2.
    Source: our derivation: the entropy is concave, so the extremes put the unseen mass on as few or as many tokens as
    the known probabilities allow.
    """

    bound: str
    vocabulary: int
    state_width: ClassVar[int] = 2
    inputs: ClassVar[tuple[Signal, ...]] = ("topk_logprobs", "topk_mask")
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "concavity of Shannon's entropy under a truncated distribution (own derivation)"

    @classmethod
    def fit(cls, reference: Reference | None = None, *, bound: str = "lower", vocabulary: int) -> Self:  # noqa: ARG003
        one_of("entropy_interval", "bound", bound, ("lower", "upper"))
        return cls(bound, whole("entropy_interval", "vocabulary", vocabulary, least=2))

    def __call__(self, xp: Ops[T], state: tuple[T, ...], signals: Signals[T]) -> tuple[tuple[T, ...], T]:
        log_p, mask = signals["topk_logprobs"], signals["topk_mask"]
        known = xp.greater(mask, 0.5)
        p = xp.where(known, xp.exp(log_p), 0.0)
        entropy = -xp.sum(p * log_p)
        rest = xp.maximum(1.0 - xp.sum(p), 0.0)
        least = xp.min(xp.where(known, log_p, 1.0))
        most = xp.max(xp.where(known, log_p, -1.0))
        bounded = entropy + self._of_rest(xp, rest, least, xp.sum(mask))
        usable = xp.where(xp.greater(least, ROUNDING), float("nan"), bounded)
        return running_mean(xp, state, xp.where(xp.greater(most, ROUNDING), float("nan"), usable))

    def _of_rest(self, xp: Ops[T], rest: T, least: T, count: T) -> T:
        unseen = xp.maximum(self.vocabulary - count, 1.0)
        if self.bound == "upper":
            return -rest * xp.log(xp.maximum(rest, TINY) / unseen)  # type: ignore[no-any-return]
        q = xp.maximum(xp.exp(least), TINY)
        full = xp.minimum(xp.floor(rest / q), unseen)
        left = xp.maximum(rest - full * q, 0.0)
        return -(full * q * least + left * xp.log(xp.maximum(left, TINY)))  # type: ignore[no-any-return]


def running_mean(xp: Ops[T], state: tuple[T, ...], value: T) -> tuple[tuple[T, ...], T]:
    """State (mean, count) and the mean after one more value, both (M,)."""
    del xp
    mean, count = state
    count = count + 1.0
    mean = mean + (value - mean) / count
    return (mean, count), mean
