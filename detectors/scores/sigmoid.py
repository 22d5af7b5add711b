"""Scores of heads whose classes each have a sigmoid of their own: most object detectors, multi-label classifiers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from demur.detectors.score import EXACT_MERGE, Reference, Scaling
from demur.detectors.tensor import Ops, Signal, Signals, T

TERMS = 8  # of the series of log1p below: the first one left out is 1e-9 of the sum


@dataclass(frozen=True, eq=False)
class SigmoidEnergy:
    """Minus the sum over the classes of log(1 + exp(z_c)): every class's free energy, against "not this class".

    Shapes: logits (N, C) -> (N,). Range: (-inf, 0], nats. Higher is less trustworthy.
    Source: Wang et al. 2021, arXiv:2109.14162, eq. 4 (JointEnergy); differs: negated, so that higher is worse. What VOS
    (Du et al. 2022, arXiv:2202.01197, eq. 4) is for a softmax over a box's classes, this is for a sigmoid of each.
    """

    inputs: ClassVar[tuple[Signal, ...]] = ("logits",)
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Wang et al. 2021, arXiv:2109.14162, eq. 4 (JointEnergy)"

    @classmethod
    def fit(cls, reference: Reference) -> Self:  # noqa: ARG003 - nothing to learn
        return cls()

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        z = signals["logits"]
        rest = _log1p(xp.exp(-xp.abs(z)))
        return -xp.sum(xp.maximum(z, 0.0) + rest)  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class ObjectnessGap:
    """|o - max_c sigmoid(z_c)|: how far a detector's two answers about one box are apart.

    o is the probability that there is an object, the other the probability of the best class given an object. "Surely
    something, but nothing known" is what an unknown object looks like; "surely a cat, but hardly an object" is a
    hallucination on the background. It is the total variation between the two yes-or-no answers.
    Shapes: objectness (N, 1), logits (N, C) -> (N,). Range: [0, 1], a probability. Higher is less trustworthy.
    Source: own, of the two factors of a box's confidence in Redmon et al. 2016, arXiv:1506.02640, eq. 1.
    """

    inputs: ClassVar[tuple[Signal, ...]] = ("objectness", "logits")
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "own, of the two factors in Redmon et al. 2016, arXiv:1506.02640, eq. 1"

    @classmethod
    def fit(cls, reference: Reference) -> Self:  # noqa: ARG003 - nothing to learn
        return cls()

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        best = 0.5 * xp.tanh(0.5 * xp.max(signals["logits"])) + 0.5
        return xp.abs(xp.column(signals["objectness"]) - best)


def _log1p(u: Any) -> Any:
    """log(1 + u) for u in [0, 1] to float32's last digits, also where 1 + u rounds to 1: twice atanh(u / (2 + u))."""
    t = u / (u + 2.0)
    square = t * t
    total = square * (1.0 / (2 * TERMS - 1)) + 1.0 / (2 * TERMS - 3)
    for odd in range(2 * TERMS - 5, 0, -2):
        total = total * square + 1.0 / odd
    return 2.0 * t * total
