"""The model is likely wrong: a predictor of failures from the evidence of calibrated scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from demur.detectors.hyper import between, whole
from demur.detectors.learned.logistic import logistic
from demur.detectors.sample import sample_of
from demur.detectors.score import Reference, Scaling, sample
from demur.detectors.tensor import Ops, Signal, Signals, T

SAMPLE_ROWS = 50_000
FEWEST_A_WEIGHT = 5  # of errors, and of right answers, for each weight and the bias


@dataclass(frozen=True, eq=False)
class Failure:
    """Log odds that the model is wrong: bias + sum w (-log p) over the p-values of the columns in `of`.

    Logistic regression to its optimum in float64: the sum of the log-losses + penalty / 2 |w|^2. Learnt on labelled
    calibration rows of fold A, each judged by a table that does not hold it; its own p-value comes from fold B.
    Shapes: p-values of the member columns, (N,) each -> (N,). Range: (-inf, inf), log odds. Higher is less trustworthy.
    Raises: ValueError in fit without members or labels, or with under 5 errors, or right answers, for each of the members
    and the bias.
    Source: Wolpert 1992 (stacked generalization) of p-values; Platt 1999; 5 events a weight: Vittinghoff & McCulloch 2007.
    """

    of: tuple[str, ...]
    weights: tuple[float, ...]
    bias: float
    scales: ClassVar[Scaling] = sample(SAMPLE_ROWS)
    source: ClassVar[str] = "Wolpert 1992, Neural Networks 5(2) (stacked generalization); Platt 1999"

    @property
    def inputs(self) -> tuple[Signal, ...]:
        return tuple(f"p:{name}" for name in self.of)

    @classmethod
    def fit(cls, reference: Reference, *, of: Sequence[str], penalty: float = 1.0, seed: int = 0) -> Self:
        names = tuple(map(str, of)) if isinstance(of, Sequence) and not isinstance(of, str) else ()
        if not names or len(set(names)) < len(names):
            raise ValueError(f"failure: `of` must be a list of different columns, got {of!r}")
        between("failure", "penalty", penalty, 0.0, 1e6)
        if reference.correct is None:
            raise ValueError("failure: expected labels in the calibration set; it learns where the model was wrong")
        needs = tuple(f"p:{name}" for name in names)
        rows = sample_of(reference, *needs, size=SAMPLE_ROWS, seed=whole("failure", "seed", seed, least=0))
        wrong = np.asarray(~rows.correct, np.float64)
        least, errors = FEWEST_A_WEIGHT * (len(names) + 1), int(wrong.sum())
        if min(errors, len(wrong) - errors) < least:
            raise ValueError(
                f"failure: {len(names)} members need at least {least} errors and as many right answers in fold A of the "
                f"calibration set, got {errors} and {len(wrong) - errors}; give more labelled rows, or fewer members"
            )
        evidence = -np.log(np.column_stack([rows.signals[s] for s in needs]))
        weights, bias = logistic(evidence, wrong, np.ones(len(wrong)), penalty)
        return cls(names, tuple(map(float, weights)), bias)

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        total, *others = (-w * xp.log(signals[s]) for s, w in zip(self.inputs, self.weights, strict=True))
        for term in others:
            total = total + term
        return total + self.bias  # type: ignore[no-any-return]
