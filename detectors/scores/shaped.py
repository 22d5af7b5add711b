"""Variants by composition: transforms, then a score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from demur.detectors.build import build_score, build_transform
from demur.detectors.score import Reference, Scaling, Score, Transform, absent, k_pass, required
from demur.detectors.scores.logit import Energy
from demur.detectors.tensor import Ops, Signal, Signals, T
from demur.detectors.transforms import LinearHead, ReAct


@dataclass(frozen=True, eq=False)
class Shaped:
    """A score of transformed signals; every part is fitted on what the transforms before it give.

    Shapes: those of the first transform's signals -> (N,). Range: the inner score's. Higher is less trustworthy.
    Raises: ValueError in fit for a score of streams, and as the parts do.
    Source: that of the inner score; the transforms cite theirs.
    """

    transforms: tuple[Transform, ...]
    score: Score

    @property
    def inputs(self) -> tuple[Signal, ...]:
        return required(self.transforms, self.score.inputs)

    @property
    def absent(self) -> tuple[Signal, ...]:
        """Inputs whose missing cells the transforms fill."""
        return tuple(dict.fromkeys(signal for part in (*self.transforms, self.score) for signal in absent(part)))

    @property
    def scales(self) -> Scaling:
        inner = self.score.scales
        passes = sum(t.passes for t in self.transforms) + inner.passes
        return inner if inner.kind == "sample" else k_pass(passes)

    @property
    def source(self) -> str:
        return self.score.source

    @classmethod
    def fit(
        cls, reference: Reference, *, transforms: Sequence[str | dict[str, Any]], score: str | dict[str, Any]
    ) -> Self:
        fitted: list[Transform] = []
        for entry in transforms:
            fitted.append(_whole(build_transform(entry, reference), reference))
            reference = reference.shaped(fitted[-1])
        inner = build_score(score, None, reference)
        if hasattr(inner, "state_width"):
            raise ValueError(
                f"shaped: {score} is a score of streams, which reads its signals as they come; leave transforms, `on` and `kind: table` out"
            )
        return cls(tuple(fitted), inner)

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        for transform in self.transforms:
            signals = transform(xp, signals)
        return self.score(xp, signals)


def _whole(transform: Transform, reference: Reference) -> Transform:
    """Raises: ValueError when a transform reads a signal whose cells may be missing and does not fill them, or fills those
    of a signal of which that was not said: its NaN would stop being INVALID.
    """
    filled = set(absent(transform))
    if whole := sorted(filled - reference.absent):
        raise ValueError(f"shaped: {whole[0]} is no table with missing cells; declare it with `kind: table`")
    if lacking := sorted(reference.absent & set(transform.inputs) - filled):
        raise ValueError(
            f"shaped: a transform reads {', '.join(lacking)}, whose cells may be missing; put impute first"
        )
    return transform


@dataclass(frozen=True, eq=False)
class ReActEnergy:
    """Energy of the logits recomputed from features cut off at a high quantile.

    The short name of `Shaped((ReAct, LinearHead), Energy)`.
    Shapes: features (N, D) -> (N,). Range: (-inf, inf), nats. Higher is less trustworthy.
    Raises: ValueError in fit without a head, or when the quantile is not in (0, 1].
    Source: Sun et al. 2021, arXiv:2111.12797, eq. 2.
    """

    react: ReAct
    head: LinearHead
    energy: Energy
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = k_pass(2)
    source: ClassVar[str] = "Sun et al. 2021, arXiv:2111.12797, eq. 2"

    @classmethod
    def fit(cls, reference: Reference, *, quantile: float = 0.9, temperature: float = 1.0) -> Self:
        react = ReAct.fit(reference, quantile=quantile)
        return cls(react, LinearHead.fit(reference), Energy.fit(reference, temperature=temperature))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        return Shaped((self.react, self.head), self.energy)(xp, signals)
