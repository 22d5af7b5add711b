"""Counts against sorted tables, in two levels: which block of a table a value falls into, then how far into it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from demur.detectors.numpy_ops import Array
from demur.detectors.tensor import Ops, T


class Blocks(NamedTuple):
    """K tables of P sorted values in B blocks of W: knots (K, B - 1), the last value of every block but the last;
    values (K * B, W), padded with +inf; starts (K,), the first block of each table.
    """

    knots: Array
    values: Array
    starts: Array


def blocks_of(tables: Array) -> Blocks:
    """Tables (K, P), each sorted ascending, laid out for `below`."""
    count, length = tables.shape
    width = math.isqrt(max(length - 1, 0)) + 1
    per_table = max(2, -(-length // width))
    padded = np.full((count, per_table * width), np.inf, np.float32)
    padded[:, :length] = tables
    values = padded.reshape(count, per_table, width)
    knots = np.ascontiguousarray(values[:, :-1, -1])
    starts = (np.arange(count) * per_table).astype(np.float32)
    return Blocks(knots, values.reshape(count * per_table, width), starts)


def below(xp: Ops[T], x: T, blocks: tuple[Any, Any, Any], width: int, *, equal: bool = False) -> T:
    """How many values of its table lie below each entry (with `equal`: at or below), (N, K) -> (N, K).

    Costs B + W comparisons in the place of P.
    """
    knots, values, starts = blocks
    passed = xp.rank(x, knots, equal=equal)
    block = xp.take(values, xp.index(passed + starts))
    return float(width) * passed + xp.rank(x, block, equal=equal)  # type: ignore[no-any-return]
