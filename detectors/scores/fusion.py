"""One score from the p-values of others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from demur.detectors.hyper import between, one_of
from demur.detectors.score import EXACT_MERGE, Reference, Scaling
from demur.detectors.tensor import Ops, Signal, Signals, T

WEIGHTED = ("cauchy", "weighted_min_p")
WAYS = ("fisher", "min_p", *WEIGHTED)
# cot(pi p) falls to -inf at p = 1, where one ordinary member would outweigh every alarm; cut, it takes back at most 31.8.
LARGEST_P = 0.99
HALF = 0.5


@dataclass(frozen=True, eq=False)
class Fused:
    """Evidence of several calibrated columns: Fisher's -2 sum log p, min-p's -log min p, the Cauchy combination
    sum w cot(pi p) with sum w = 1 and p cut at 0.99, or weighted min-p's -log min p/w with mean w = 1.

    Its own p-value comes from calibration rows that did not make the members' tables, so dependence between the members
    does not matter. Non-finite as soon as one member is. `weights` are relative, in the order of `of`; default all equal.
    Shapes: p-values of the member columns, (N,) each -> (N,). Range: [0, inf) nats; cauchy [-31.9, inf).
    Higher is less trustworthy.
    Raises: ValueError in fit with under 2 distinct members, an unknown `by`, or weights that are not positive, one a member.
    Source: Fisher 1932, section 21.1 (fisher); Tippett 1931 (min_p); Liu & Xie 2020, arXiv:1808.09011 (cauchy);
    Genovese, Roeder & Wasserman 2006, Biometrika 93(3) (weighted_min_p).
    """

    of: tuple[str, ...]
    by: str
    weights: tuple[float, ...] = ()
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = (
        "Fisher 1932, Statistical Methods for Research Workers, section 21.1; Tippett 1931; Liu & Xie 2020, "
        "arXiv:1808.09011; Genovese, Roeder & Wasserman 2006"
    )

    @property
    def inputs(self) -> tuple[Signal, ...]:
        return tuple(f"p:{name}" for name in self.of)

    @classmethod
    def fit(
        cls,
        reference: Reference,  # noqa: ARG003 - nothing to learn
        *,
        of: Sequence[str],
        by: str = "min_p",
        weights: Sequence[float] = (),
    ) -> Self:
        names = tuple(map(str, of)) if isinstance(of, Sequence) and not isinstance(of, str) else (str(of),)
        if len(set(names)) < 2 or len(set(names)) < len(names):
            raise ValueError(f"fused: `of` must name at least 2 different columns, got {list(names)}")
        return cls(names, one_of("fused", "by", by, WAYS), _weights(by, weights, len(names)))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        weights = self.weights or (1.0,) * len(self.of)
        total, *others = (self._term(xp, signals[s], w) for s, w in zip(self.inputs, weights, strict=True))
        smallest = self.by in ("min_p", "weighted_min_p")
        for term in others:
            total = xp.minimum(total, term) if smallest else total + term
        if smallest:
            return -xp.log(total)  # type: ignore[no-any-return]
        return -2.0 * total if self.by == "fisher" else total

    def _term(self, xp: Ops[T], p: T, weight: float) -> T:
        """What one member brings."""
        if self.by == "fisher":
            return xp.log(p)
        if self.by == "cauchy":
            return weight / len(self.of) * self._cotangent(xp, p)  # type: ignore[no-any-return]
        return p if self.by == "min_p" else p * (1.0 / weight)

    def _cotangent(self, xp: Ops[T], p: T) -> T:
        """cot(pi p): above one half as cot(pi (p - 1)), whose argument is exact in float32."""
        cut = xp.minimum(p, LARGEST_P)
        near = xp.where(xp.greater(cut, HALF), cut - 1.0, cut)
        return 1.0 / xp.tan(near * math.pi)  # type: ignore[no-any-return]


def _weights(by: str, given: Sequence[float], members: int) -> tuple[float, ...]:
    """Relative weights with mean 1; () for the ways that have none."""
    if by not in WEIGHTED:
        if given:
            raise ValueError(f"fused: weights belong to by: {' and '.join(WEIGHTED)}, got them for {by}")
        return ()
    if given and (not isinstance(given, Sequence) or len(given) != members):
        raise ValueError(f"fused: weights must be {members} numbers, one for each of `of`, got {given!r}")
    checked = [between("fused", "weights", w, 0.0, 1e6) for w in given] or [1.0] * members
    mean = math.fsum(checked) / members
    return tuple(w / mean for w in checked)


@dataclass(frozen=True, eq=False)
class TwoSided:
    """How untypical a column's p-value is on either side: |2 p - 1|. Catches rows that look too good to be true.

    The member's p-value comes from fold A, this score's own from fold B, so it is exact whatever the ties.
    Shapes: p-value of the member column, (N,) -> (N,). Range: [0, 1]. Higher is less trustworthy.
    Raises: ValueError in fit unless `of` names exactly one column.
    Source: the two-sided test of a uniform p-value, 2 min(p, 1 - p), as 1 minus itself; Fisher 1925, section 12.
    """

    of: tuple[str, ...]
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Fisher 1925, Statistical Methods for Research Workers, section 12 (two-sided test)"

    @property
    def inputs(self) -> tuple[Signal, ...]:
        return (f"p:{self.of[0]}",)

    @classmethod
    def fit(cls, reference: Reference, *, of: Sequence[str]) -> Self:  # noqa: ARG003 - nothing to learn
        if not isinstance(of, Sequence) or isinstance(of, str) or len(of) != 1:
            raise ValueError(f"two_sided: `of` must be a list of one column, got {of!r}")
        return cls((str(of[0]),))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        return xp.abs(2.0 * signals[self.inputs[0]] - 1.0)


@dataclass(frozen=True, eq=False)
class Flagged:
    """1 where the smallest of the members' p-values is at most `level`, else 0.

    Its mean over a group is the share of the group's rows that some member finds unlikely: of an image, of its boxes.
    Shapes: p-values of the member columns, (N,) each -> (N,). Range: 0 or 1. Higher is less trustworthy.
    Raises: ValueError in fit for `of` that lists no columns, or one twice, and for a level outside (0, 1).
    Source: own; the level is that of a conformal p-value (Vovk, Gammerman & Shafer 2005, section 2.2).
    """

    of: tuple[str, ...]
    level: float
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "own, of conformal p-values (Vovk, Gammerman & Shafer 2005, section 2.2)"

    @property
    def inputs(self) -> tuple[Signal, ...]:
        return tuple(f"p:{name}" for name in self.of)

    @classmethod
    def fit(cls, reference: Reference, *, of: Sequence[str], level: float = 0.05) -> Self:  # noqa: ARG003 - nothing to learn
        names = tuple(map(str, of)) if isinstance(of, Sequence) and not isinstance(of, str) else ()
        if not names or len(set(names)) < len(names):
            raise ValueError(f"flagged: `of` must list different columns, at least one, got {of!r}")
        if between("flagged", "level", level, 0.0, 1.0) == 1.0:
            raise ValueError("flagged: level 1 flags every row; choose a share below 1")
        return cls(names, float(level))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        smallest, *others = (signals[name] for name in self.inputs)
        for p in others:
            smallest = xp.minimum(smallest, p)
        return xp.where(xp.greater(smallest, self.level), 0.0, 1.0)
