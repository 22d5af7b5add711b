"""Scores in NumPy: the reference for every compiled graph."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from demur.detectors.numpy_ops import Array, NumpyOps
from demur.detectors.score import Score, absent
from demur.detectors.tensor import Ops, Signal, Signals, T, derived


def evaluate(scores: Mapping[str, Score], signals: Signals[Array]) -> dict[str, Array]:
    """Every score, name -> (N,) float32; NaN where a row the score reads is not finite, or the score is not."""
    xp = NumpyOps()
    with np.errstate(all="ignore"):
        return {name: np.asarray(poisoned(score, xp, signals), np.float32) for name, score in scores.items()}


def poisoned(score: Score, xp: Ops[T], signals: Signals[T]) -> T:
    """The score, NaN wherever an input row or the score itself is not finite."""
    result = score(xp, signals)
    return result + (result * 0.0 + poison(xp, signals, score.inputs, absent(score)))  # type: ignore[no-any-return]


def poison(xp: Ops[T], signals: Signals[T], inputs: tuple[Signal, ...], lacking: tuple[Signal, ...] = ()) -> T:
    """(N,): 0 on rows where every input is finite, NaN elsewhere; of the inputs `lacking`, NaN cells count as finite.

    Without it ReduceMax and ReduceMin drop a NaN that is not in first place, TopK ranks it, and a corrupt row gets an
    ordinary score (microsoft/onnxruntime#10514).
    """
    total: T | None = None
    for signal in inputs:
        x = signals[signal]
        if signal in lacking:
            x = xp.where(present(xp, x), x, 0.0)
        row = x * 0.0 if derived(signal) else xp.zero(x)
        total = row if total is None else total + row
    assert total is not None  # noqa: S101 - a score reads something
    return total


def present(xp: Ops[T], x: T) -> T:
    """Which cells are numbers, infinities included; only `where` accepts it. NaN compares false."""
    return xp.greater(xp.abs(x), -1.0)
