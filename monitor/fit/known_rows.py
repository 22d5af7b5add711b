"""Rows met before: told by their signals, and by their target too where both sides know it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from demur.monitor.fit.table import SignalsTable

TARGETED = np.uint64(0x9E3779B97F4A7C15)  # marks the signals of a row whose target is known


def marks(table: SignalsTable, names: Collection[str] | None = None) -> NDArray[np.uint64]:
    """What `seen` needs to know of a table's rows: hashes of their signals (all, or those named), one or two a row."""
    bare = table.row_hashes(names, target=False)
    if table.target is None:
        return bare
    return np.concatenate([table.row_hashes(names), bare ^ TARGETED])


def seen(table: SignalsTable, held: ArrayLike, names: Collection[str] | None = None) -> NDArray[np.bool_]:
    """(N,) which rows are among those that `held` marks. Rows whose targets are both known and differ are different
    ones: two inputs may well get the same few numbers from a regression.
    """
    bare = table.row_hashes(names, target=False)
    other = bare ^ TARGETED if table.target is None else table.row_hashes(names)
    return np.asarray(np.isin(bare, held) | np.isin(other, held))


def remembered(tables: Iterable[SignalsTable]) -> NDArray[np.uint64]:
    """What a bundle keeps of the rows it was fitted on: their marks, sorted, each once; once more those of rows that stand
    in their table more often than others, as boxes at the limit of their logits do.
    """
    every, often = list[NDArray[np.uint64]](), list[NDArray[np.uint64]]()
    for table in tables:
        values, counts = np.unique(marks(table), return_counts=True)
        every.append(values)
        often.append(values[counts > counts.min()])
    return np.sort(np.concatenate([np.unique(np.concatenate(part)) for part in (every, often)]))
