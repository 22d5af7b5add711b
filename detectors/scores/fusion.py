"""One score from the p-values of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from demur.detectors.hyper import one_of
from demur.detectors.score import EXACT_MERGE, Reference, Scaling
from demur.detectors.tensor import Ops, Signal, Signals, T


@dataclass(frozen=True, eq=False)
class Fused:
    """Evidence of several calibrated columns: Fisher's -2 sum log p, or min-p's -log min p.

    Its own p-value comes from calibration rows that did not make the members' tables, so dependence between the members
    does not matter. Non-finite as soon as one member is.
    Shapes: p-values of the member columns, (N,) each -> (N,). Range: [0, inf), nats. Higher is less trustworthy.
    Raises: ValueError in fit with under 2 distinct members, or an unknown `by`.
    Source: Fisher 1932, section 21.1 (fisher); Tippett 1931 (min_p).
    """

    of: tuple[str, ...]
    by: str
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Fisher 1932, Statistical Methods for Research Workers, section 21.1; Tippett 1931"

    @property
    def inputs(self) -> tuple[Signal, ...]:
        return tuple(f"p:{name}" for name in self.of)

    @classmethod
    def fit(cls, reference: Reference, *, of: Sequence[str], by: str = "min_p") -> Self:  # noqa: ARG003
        names = tuple(map(str, of)) if isinstance(of, Sequence) and not isinstance(of, str) else (str(of),)
        if len(set(names)) < 2 or len(set(names)) < len(names):
            raise ValueError(f"fused: `of` must name at least 2 different columns, got {list(names)}")
        return cls(names, one_of("fused", "by", by, ("fisher", "min_p")))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        total, *others = (signals[s] for s in self.inputs)
        if self.by == "min_p":
            for p in others:
                total = xp.minimum(total, p)
            return -xp.log(total)  # type: ignore[no-any-return]
        total = xp.log(total)
        for p in others:
            total = total + xp.log(p)
        return -2.0 * total  # type: ignore[no-any-return]
