"""Tail probabilities of each column, counted against the reference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from demur.detectors.accumulate import Float64
from demur.detectors.numpy_ops import Array
from demur.detectors.score import Reference, Scaling, sample
from demur.detectors.scores.bank import BANK_ROWS, kept_rows
from demur.detectors.scores.class_fit import f32
from demur.detectors.scores.ranked import below, blocks_of
from demur.detectors.tensor import Ops, Signal, Signals, T

ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class ECOD:
    """The largest of three sums over columns of -log tail probabilities: all left, all right, or each column's own side.

    left_d = -log((1 + #{x_id <= h_d}) / (n + 1)), right_d = -log((1 + #{x_id >= h_d}) / (n + 1)), over n sampled
    reference rows x_i: the row is counted among them, as in a conformal p-value, so no tail is empty. A column's own side
    is the left one when its sample skewness is negative, else the right one (also for a constant column).
    Shapes: features (N, D) -> (N,). Range: [0, D log(n + 1)], nats. Higher is less trustworthy.
    Raises: ValueError in fit when a sampled row is not finite.
    Source: Li et al. 2022, arXiv:2201.00382, algorithm 1; differs: counted against the reference only, so a row's score
    does not depend on the rows it is scored with (PyOD re-ranks reference and batch together, and sums over columns the
    largest of the three); `bank` sampled rows.
    """

    knots: Array  # (D, B - 1)
    blocks: Array  # (D * B, W)
    starts: Array  # (D,)
    left: Array  # (D,), 1 where the left tail is the column's own side, else 0
    rows: int  # n
    width: int  # W
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = sample(BANK_ROWS)
    source: ClassVar[str] = "Li et al. 2022, arXiv:2201.00382, algorithm 1"

    @classmethod
    def fit(cls, reference: Reference, *, bank: int = BANK_ROWS, seed: int = 0) -> Self:
        return cls(*_fitted(reference, "ecod", bank, seed))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        left, right, own = _tails(xp, signals["features"], self)
        return xp.maximum(xp.maximum(xp.sum(left), xp.sum(right)), xp.sum(own))


@dataclass(frozen=True, eq=False)
class COPOD:
    """The sum over columns of the larger of the own side's -log tail probability and the mean of both sides'.

    Tails and own sides as in `ecod`. The copula paper's own maximum of three sums is, counted against a reference, the
    same number as `ecod`; this is the form of its implementation in PyOD, which takes the maximum column by column.
    Shapes: features (N, D) -> (N,). Range: [0, D log(n + 1)], nats. Higher is less trustworthy.
    Raises: ValueError in fit when a sampled row is not finite.
    Source: Li et al. 2020, arXiv:2009.09463, eq. 11 and 12; PyOD 3.6, models/copod.py; differs: counted against the
    reference only, with the row counted among them; a column without skewness takes its right side (PyOD: both).
    """

    knots: Array  # (D, B - 1)
    blocks: Array  # (D * B, W)
    starts: Array  # (D,)
    left: Array  # (D,), 1 where the left tail is the column's own side, else 0
    rows: int  # n
    width: int  # W
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = sample(BANK_ROWS)
    source: ClassVar[str] = "Li et al. 2020, arXiv:2009.09463, eq. 11 and 12"

    @classmethod
    def fit(cls, reference: Reference, *, bank: int = BANK_ROWS, seed: int = 0) -> Self:
        return cls(*_fitted(reference, "copod", bank, seed))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        left, right, own = _tails(xp, signals["features"], self)
        return xp.sum(xp.maximum(own, 0.5 * (left + right)))


def _fitted(reference: Reference, score: str, bank: int, seed: int) -> tuple[Array, Array, Array, Array, int, int]:
    kept = kept_rows(reference, score, "features", size=bank, seed=seed).signals["features"]
    knots, values, starts = blocks_of(f32(np.sort(kept, axis=0).T))
    left = f32((skewness(kept) < 0).astype(np.float64))
    return knots, values, starts, left, len(kept), values.shape[1]


def skewness(rows: Float64) -> Float64:
    """(D,) of the sample, not corrected for bias; 0 for a constant column, and where it is 0 but for rounding."""
    mean = rows.mean(axis=0)
    centred = rows - mean
    spread = np.sqrt((centred**2).mean(axis=0))
    scaled = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > ROUNDING * np.abs(mean))
    found = (scaled**3).mean(axis=0)
    return np.where(np.abs(found) > ROUNDING, found, 0.0)


def _tails(xp: Ops[T], x: T, fitted: ECOD | COPOD) -> tuple[T, T, T]:
    """-log tail probabilities (N, D): left, right, and of each column's own side."""
    blocks = (fitted.knots, fitted.blocks, fitted.starts)
    at_or_below = below(xp, x, blocks, fitted.width, equal=True)
    at_or_above = float(fitted.rows) - below(xp, x, blocks, fitted.width)
    whole = math.log(fitted.rows + 1)
    left, right = (whole - xp.log(1.0 + count) for count in (at_or_below, at_or_above))
    return left, right, right + fitted.left * (left - right)
