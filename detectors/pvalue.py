"""Exact conformal p-values, p = (1 + #{calibration scores >= s}) / (n + 1), in NumPy and as nodes of a graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from demur.detectors.numpy_ops import Array
from demur.detectors.onnx_ops import OnnxOps
from demur.detectors.tape import Sym

if TYPE_CHECKING:
    from demur.detectors.policy import Column, Slicing

# Four columns, one thread, session.run in µs for a plain count / these two levels / an unrolled binary search:
#     n =   256: N = 1  15 / 18 / 46    N = 256    126 /  76 /  73
#     n = 1,024: N = 1  17 / 20 / 56    N = 256    606 /  96 /  96
#     n = 8,192: N = 1  33 / 12 / 64    N = 256 10,718 / 207 / 121
ONE_LEVEL_ROWS = 256
MOST_ROWS = 2**24  # counts are float32 in the graph, exact up to here


def p_value(calibration: Array, scores: Array) -> Array:
    """p-values of scores (...,) against one table sorted ascending, float32; NaN for NaN, or when the table is empty.

    Source: Bates et al. 2023, arXiv:2104.08279, eq. 2.
    """
    if not len(calibration):
        return np.full(np.shape(scores), np.nan, np.float32)
    at_least = len(calibration) - np.searchsorted(calibration, scores, side="left")
    exact = (at_least + 1).astype(np.float32) / np.float32(len(calibration) + 1)
    return np.asarray(exact + np.float32(0) * scores, np.float32)


@dataclass(frozen=True, eq=False)
class Tables:
    """Calibration tables of S columns laid out for a two-level search.

    T distinct tables of K blocks of B scores, padded with -inf in front (never >= a finite score, so never counted):
    blocks (T * K, B); knots (T, K - 1), the largest of every block but the last; rows (T,) = n + 1, NaN when
    uncalibrated; `of` (S,) the table of each column that has one for every row. `by` adds to it for the others: (C, S) by slice,
    for each way of slicing. The first of them holds `of` too.
    """

    blocks: Array
    knots: Array
    rows: Array
    of: NDArray[np.int64]
    by: Mapping[Slicing, NDArray[np.int64]]

    @property
    def per_table(self) -> int:
        return len(self.blocks) // len(self.rows)

    @property
    def rows_after(self) -> Array:
        """(T * K,) float32: one plus the scores in the blocks after each block of its table."""
        behind = np.arange(self.per_table - 1, -1, -1, dtype=np.float32) * np.float32(self.blocks.shape[-1])
        return np.tile(behind + np.float32(1), len(self.rows))


def lay_out(columns: Sequence[Column], classes: int) -> Tables:
    """Tables for the columns, in order.

    Raises: ValueError when a table is not sorted, not finite, too long, empty among others, or when a sliced column
    does not have one table per slice.
    """
    distinct: dict[bytes, int] = {}
    held: list[Array] = []
    of = np.zeros(len(columns), np.int64)
    by: dict[Slicing, NDArray[np.int64]] = {}
    for i, column in enumerate(columns):
        numbers = [_number(table, distinct, held) for table in _checked(column, classes)]
        if column.slicing is None or len(numbers) == 1:
            of[i] = numbers[0]
        else:
            by.setdefault(column.slicing, np.zeros((len(numbers), len(columns)), np.int64))[:, i] = numbers
    longest = max((len(t) for t in held), default=0)
    width = longest if longest <= ONE_LEVEL_ROWS else math.isqrt(longest - 1) + 1
    count = max(1, -(-longest // max(width, 1)))
    padded = np.full((len(held), count * max(width, 1)), -np.inf, np.float32)
    for row, table in zip(padded, held, strict=True):
        row[len(row) - len(table) :] = table
    rows = np.array([len(t) + 1 if len(t) else np.nan for t in held], np.float32)
    blocks = padded.reshape(len(held), count, -1)
    return Tables(blocks.reshape(-1, blocks.shape[-1]), blocks[:, :-1, -1].copy(), rows, of, with_base(by, of))


def with_base(by: Mapping[Slicing, NDArray[Any]], base: NDArray[Any]) -> dict[Slicing, NDArray[Any]]:
    """The same arrays (C, K), the first of them with what stands in `base` (K,) for every slice."""
    return {key: part + base if i == 0 else part for i, (key, part) in enumerate(by.items())}


def looked_up(
    xp: OnnxOps, name: str, by: Mapping[Slicing, NDArray[Any]], places: Mapping[Slicing, Sym], width: int
) -> Sym | None:
    """(N, K): the sum of each array's (C, K) line of the row's slice; None of no arrays. The first keeps the plain name."""
    total: Sym | None = None
    for key, part in by.items():
        table = xp.constant(name if total is None else f"{name}.{key.signal}", part)
        found = xp.node("Gather", table, places[key], width=width, axis=0)
        total = found if total is None else xp.node("Add", total, found, width=width)
    return total


def _number(table: Array, distinct: dict[bytes, int], held: list[Array]) -> int:
    key = table.tobytes()
    if key not in distinct:
        distinct[key] = len(held)
        held.append(table)
    return distinct[key]


def _checked(column: Column, classes: int) -> tuple[Array, ...]:
    tables = column.calibration or (np.zeros(0, np.float32),)
    count = 1 if column.slicing is None else column.slicing.count(classes)
    if len(tables) not in (1, count):
        each = "class" if column.sliced is True else "slice"
        wanted = f"{count} tables, one per {each}" if column.sliced else "one table"
        raise ValueError(f"column {column.name!r}: expected {wanted}, got {len(tables)}")
    for table in column.calibration:
        if table.dtype != np.float32 or table.ndim != 1 or not 0 < len(table) < MOST_ROWS:
            raise ValueError(
                f"column {column.name!r}: expected 1 to {MOST_ROWS - 1} float32 calibration scores, got "
                f"{table.dtype} {table.shape}; a slice without rows takes the pooled table"
            )
        if not np.isfinite(table).all() or (np.diff(table) < 0).any():
            raise ValueError(f"column {column.name!r}: calibration scores must be finite and sorted ascending")
    return tables


def p_values(tables: Sequence[Sequence[Array]], scores: Array, place: NDArray[np.int64] | None) -> Array:
    """The NumPy reference: scores (N, S) against one table a column, or one per slice; (N, S) float32."""
    result = np.empty(scores.shape, np.float32)
    for i, by_slice in enumerate(tables):
        if len(by_slice) <= 1 or place is None:
            result[:, i] = p_value(by_slice[0] if by_slice else np.zeros(0, np.float32), scores[:, i])
            continue
        for c, table in enumerate(by_slice):
            rows = place == c
            result[rows, i] = p_value(table, scores[rows, i])
    return result


def count_in_graph(
    xp: OnnxOps, scores: Sym, zero: Sym, tables: Tables, name: str, places: Mapping[Slicing, Sym]
) -> Sym:
    """Nodes for the p-values (N, S) of scores (N, S); `zero` (N, S) is NaN where the score is not finite, else 0.

    `places` (N,) int64 choose the table when a column is sliced. The block a score falls into is found among the
    knots; what lies in the blocks after it is known, and the rest is counted in that one block.
    """
    table = looked_up(xp, f"{name}.table_of_class", tables.by, places, 0)
    point = xp.node("Unsqueeze", scores, xp.integers(-1), width=0)
    rows = _per_column(xp, tables.rows, tables, f"{name}.rows", table)
    if tables.per_table == 1:
        block, after = (
            _per_column(xp, tables.blocks, tables, f"{name}.blocks", table),
            xp.constant("const.1.0", np.float32(1.0)),
        )
    else:
        place = _find_block(xp, point, tables, name, table)
        block = xp.node("Gather", xp.constant(f"{name}.blocks", tables.blocks), place, width=0, axis=0)
        after = xp.node("Gather", xp.constant(f"{name}.rows_after", tables.rows_after), place, width=0, axis=0)
    at_least = xp.count(xp.node("GreaterOrEqual", block, point)) + after
    return Sym((at_least / rows + zero).value, xp, scores.width)


def _find_block(xp: OnnxOps, point: Sym, tables: Tables, name: str, table: Sym | None) -> Sym:
    """(N, S) int32, the block that each score falls into."""
    knots = _per_column(xp, tables.knots, tables, f"{name}.knots", table)
    passed = xp.count(xp.node("Less", knots, point), ir.DataType.INT32)
    first = np.arange(len(tables.rows), dtype=np.int32) * tables.per_table
    return passed + _per_column(xp, first, tables, f"{name}.first_block", table)


def _per_column(xp: OnnxOps, values: NDArray[Any], tables: Tables, name: str, table: Sym | None) -> Sym:
    """Per-table values (T, ...) as seen by each column: (S, ...), or (N, S, ...) by slice."""
    if table is not None:
        return xp.node("Gather", xp.constant(name, values), table, width=0, axis=0)
    return xp.constant(name, values[tables.of])
