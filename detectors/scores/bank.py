"""Stored reference rows: which are kept, and in how many bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from demur.detectors.accumulate import Float64
from demur.detectors.hyper import one_of, whole
from demur.detectors.numpy_ops import Array
from demur.detectors.sample import Rows, check_finite, sample_of
from demur.detectors.score import Reference
from demur.detectors.selection import select_bank
from demur.detectors.tensor import Ops, Signal, T

BANK_ROWS = 10_000
POOL_ROWS = 4  # candidates a kept row, when rows are chosen and not drawn
METHODS = {"random": "random", "k_centre": "k_centre", "class_balanced": "balanced", "distilled": "distilled"}
DTYPES = ("float32", "float16", "int8")


def kept_rows(
    reference: Reference,
    score: str,
    *signals: Signal,
    size: int,
    seed: int,
    select: str = "random",
    unit: bool = False,
    least: int = 1,
    role: str = "reference",
) -> Rows:
    """At most `size` reference rows of the signals, or of the side `role`, in their order; with `unit`, the first signal as unit vectors.

    random: a seeded sample of `size` rows. k_centre, class_balanced, distilled: chosen by `select_bank` on the first
    signal (after `unit`) among a seeded sample of 4 `size` rows. Rows without direction are left out of both under
    `unit`.
    Raises: ValueError when a row is not finite, fewer than `least` rows remain, or as `select_bank`.
    """
    whole(score, "bank", size)
    whole(score, "seed", seed, least=0)
    one_of(score, "select", select, tuple(METHODS))
    pool = size if select == "random" else POOL_ROWS * size
    rows = sample_of(reference, *signals, size=pool, seed=seed)
    check_finite(score, rows, role)
    if unit:
        rows = _directions(rows, signals[0])
    if select != "random" and len(rows.correct):
        rows = _of(rows, select_bank(rows.signals[signals[0]], size, METHODS[select], seed, rows.labels))
    if len(rows.correct) < least:
        kind = "non-zero rows" if unit else "rows"
        raise ValueError(
            f"{score}: expected at least {least} {kind} in the bank, since {least} neighbours are asked for; "
            f"got {len(rows.correct)}"
        )
    return rows


def _directions(rows: Rows, signal: Signal) -> Rows:
    lengths = np.linalg.norm(rows.signals[signal], axis=1)
    kept = _of(rows, np.flatnonzero(lengths > 0))
    units = kept.signals[signal] / lengths[lengths > 0, None]
    return replace(kept, signals={**kept.signals, signal: units})


def _of(rows: Rows, places: NDArray[np.int64]) -> Rows:
    signals = {name: held[places] for name, held in rows.signals.items()}
    return Rows(signals, None if rows.labels is None else rows.labels[places], rows.correct[places])


class Stored(NamedTuple):
    """Rows as they are kept: `rows` (M, D) of the chosen type, `step` (D,) of int8 or None, `squares` (M,) |row|^2."""

    rows: NDArray[Any]
    step: Array | None
    squares: Array


def stored(score: str, rows: Float64, dtype: str) -> Stored:
    """Rows (M, D) rounded to float32 or float16, or to int8 multiples of max|column| / 127.

    Raises: ValueError when the type is unknown or a row does not fit in float16.
    """
    one_of(score, "dtype", dtype, DTYPES)
    if dtype == "float16" and np.abs(rows).max() > np.finfo(np.float16).max:
        raise ValueError(
            f"{score}: the bank exceeds the range of float16, 65504; use dtype: int8, or standardise first"
        )
    if dtype != "int8":
        kept = np.ascontiguousarray(rows, dtype)
        return Stored(kept, None, _squares(kept.astype(np.float64)))
    largest = np.abs(rows).max(axis=0)
    step = np.where(largest > 0, largest / 127, 1.0).astype(np.float32)
    codes = np.rint(rows / step).astype(np.int8)
    return Stored(codes, step, _squares(codes.astype(np.float64) * step))


def _squares(rows: Float64) -> Array:
    return np.asarray(np.sum(rows**2, axis=1), np.float32)


def closeness(xp: Ops[T], here: T, bank: Any, squares: Any, step: Any, dtype: str) -> T:
    """|b|^2 - 2 here.b of every stored row b: (N, D) -> (N, M), in the order of the distances."""
    asked = here if step is None else here * step
    return xp.linear(asked, bank if dtype == "float32" else xp.wide(bank), squares, scale=-2.0)


def has_direction(xp: Ops[T], x: T) -> T:
    """Whether a row is not the zero vector; only `where` accepts it."""
    return xp.greater(xp.max(xp.abs(x)), 0.0)
