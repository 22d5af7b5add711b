"""Rows of one set that are in another too: a promise needs rows that the scores were not fitted on.

Two rows of many numbers are equal only when they are one row. Boxes are different: what a detector says of one may well be
what it says of another (a class logit at its limit, and the same number for all other classes), and one such row says
nothing about the two images. So rows that come in groups are judged by their groups.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from demur.monitor.fit.finding import Finding, error, listed, warning
from demur.monitor.fit.known_rows import seen
from demur.monitor.fit.table import SignalsTable

REMEDY = "take them out of one table"
CHANCE = 0.01  # of the groups may hold a row of the other set before it is no chance any more


def shared_rows(
    table: SignalsTable, held: NDArray[np.uint64], role: str, other: str, names: Collection[str] | None = None
) -> list[Finding]:
    """What is to say about rows of `table` that `held` marks (`known_rows.marks` of the other set): nothing without any.

    An error when rows stand alone, each in a group of its own at most. Of rows in groups a warning, unless a whole group of two rows or more is in the other
    set, or more than 1 % of the groups hold such a row. A row that is there more often than others in either set does not count.
    """
    known = seen(table, held, names)
    if not known.any():
        return []
    rows = np.flatnonzero(known)
    found = f"{role}: {len(rows)} rows are in the {other} set too ({role} rows {listed(rows)})"
    if table.grouping is None or table.grouping.count == len(table):
        return [error("shared_rows", f"{found}; a promise needs rows the scores were not fitted on: {REMEDY}")]
    index, count = table.grouping.index, table.grouping.count
    telling = known & _once(table, held, names)
    sizes, shared, told = (np.bincount(index, weights=w, minlength=count) for w in (None, known, telling))
    whole, touched = int(((sizes == shared) & (told > 1)).sum()), int((told > 0).sum())
    if whole or touched > CHANCE * count:
        message = f"{found}: {whole} of {count} groups are there as a whole, {touched} with a row of their own"
        return [error("shared_rows", f"{message}; a promise needs groups the scores were not fitted on: {REMEDY}")]
    message = f"{found}, in {int((shared > 0).sum())} of {count} groups, none of which is there as a whole with rows of its own"
    return [warning("shared_rows", f"{message}: taken for chance; if an image is in both sets, take it out of one")]


def _once(table: SignalsTable, held: NDArray[np.uint64], names: Collection[str] | None) -> NDArray[np.bool_]:
    """(N,) rows that stand in neither set more often than its rarest row."""
    bare = table.row_hashes(names, target=False)
    found = np.ones(len(bare), np.bool_)
    for hashes in (bare, held):
        values, counts = np.unique(hashes, return_counts=True)
        # Of a set that was joined with itself every row is there twice.
        found &= ~np.isin(bare, values[counts > counts.min()])
    return found
