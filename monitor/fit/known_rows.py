"""Rows met before: told by their signals, and by their target too where both sides know it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from demur.monitor.errors import BundleError
from demur.monitor.fit.repeats import Repeats
from demur.monitor.fit.table import SignalsTable

TIMES = "_times"  # ends the name of a member of a bundle that says how often the values of a set stand in it
MOST_ROWS = 2.0**53
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


def remembered(tables: Iterable[SignalsTable]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """What a bundle keeps of the rows it was fitted on: their marks, sorted, each once; once more those of rows that stand
    in their table more often than others, as boxes at the limit of their logits do. And (2, K) how often values stand in all
    the tables together, as `Repeats` has it.
    """
    every, often, rows = (list[NDArray[np.uint64]]() for _ in range(3))
    for table in tables:
        held = marks(table)
        values, counts = np.unique(held, return_counts=True)
        every.append(values)
        often.append(values[counts > counts.min()])
        rows.append(held[: len(table)])
    found = Repeats.of(np.concatenate(rows))
    kept = np.concatenate([np.unique(np.concatenate(part)) for part in (every, often)])
    return np.sort(kept), np.stack([found.times, found.values])


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of the rows of a set: `marks` by which they are met again, how often their values stand in it, and their
    ids; None where nobody knows.
    """

    marks: NDArray[np.uint64]
    repeats: Repeats | None = None
    ids: NDArray[Any] | None = None

    @classmethod
    def of(cls, table: SignalsTable, names: Collection[str] | None = None) -> Known:
        """Of a table, by all its signals or by those named."""
        found = marks(table, names)
        return cls(found, Repeats.of(found[: len(table)]), table.id)

    @classmethod
    def stored(cls, rows: Mapping[str, NDArray[Any]], name: str) -> Known:
        """Of a set as a bundle keeps it; older bundles do not say how often values stand in it. Raises: BundleError."""
        times = rows.get(name + TIMES)
        return cls(rows.get(name, np.zeros(0, np.uint64)), None if times is None else _counted(times, name))


def _counted(times: NDArray[Any], name: str) -> Repeats:
    """Raises: BundleError for what no set of rows gives."""
    counts = times.ndim == 2 and len(times) == 2 and times.size > 0 and times.dtype == np.int64 and (times > 0).all()
    if not counts or float(times[0].astype(np.float64) @ times[1].astype(np.float64)) >= MOST_ROWS:
        raise BundleError(
            f"rows/{name}{TIMES}.npy: expected (2, K) counts of rows, got {times.shape} {times.dtype}; run `demur fit` again"
        )
    return Repeats(times[0], times[1])
