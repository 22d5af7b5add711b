"""Rows of one set that are in another too: a promise needs rows that the scores were not fitted on.

Two rows of many numbers are equal only when they are one row. Boxes are different: what a detector says of one may well be
what it says of another (a class logit at its limit, and the same number for all other classes), and one such row says
nothing about the two images. So rows that come in groups are judged by their groups. And so are the rows of a discrete
table, a few counts or codes each: there two inputs are told apart by their ids, or rows repeat as often inside each set.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from demur.monitor.fit.finding import Finding, error, listed, warning
from demur.monitor.fit.known_rows import Known, seen
from demur.monitor.fit.repeats import Repeats, explained, repeated_more
from demur.monitor.fit.table import SignalsTable

CALIBRATION = "calibration"
STICKING = 3  # different rows that stand in a set again and again, as of a sensor at its limit
DISCRETE_ROWS, DISCRETE_COLUMNS, OWN_NUMBERS = 2000, 256, 0.75
CHANCE = 0.01  # of the groups may hold a row of the other set before it is no chance any more


def shared_rows(
    table: SignalsTable, known: Known, role: str, other: str, names: Collection[str] | None = None
) -> list[Finding]:
    """What is to say about rows of `table` that are `known` from the other set: nothing without any.

    Of rows that stand alone, each in a group of its own at most, an error; a warning where both sets have ids and no id is
    in both, or where both repeat inside as two draws of one discrete source do (`repeats.explained`). Of rows in groups a
    warning, unless a whole group of two rows or more is in the other set, or more than 1 % of the groups hold such a row. A
    row that is there more often than others in either set does not count.
    """
    shared = seen(table, known.marks, names)
    if not shared.any():
        return []
    rows = np.flatnonzero(shared)
    found = f"{role}: {len(rows)} rows are in the {other} set too ({role} rows {listed(rows)})"
    if alone(table):
        return [_of_rows(found, shared, table, known, (role, other), names)]
    return [_of_groups(found, shared, table, known, (role, other), names)]


def copies(table: SignalsTable, known: Known, role: str, names: Collection[str] | None = None) -> list[Finding]:
    """A warning when rows that stand alone repeat inside `table` more than those of a set `known` to be like it."""
    if known.repeats is None or not alone(table):
        return []
    mine = Repeats.of(table.row_hashes(names))
    if not repeated_more(mine, known.repeats):
        return []
    found = (
        f"{role}: {mine.copies:,} of {mine.rows:,} rows are copies of another row; each counts in n as if it were new"
    )
    remedy = "leave copies out, unless what comes in service repeats so too"
    return [warning("copied_rows", f"{found}, so promises claim more than the data hold: {remedy}")]


def alone(table: SignalsTable) -> bool:
    """Whether no two rows are in one group."""
    return table.grouping is None or table.grouping.count == len(table)


def _of_rows(
    found: str,
    shared: NDArray[np.bool_],
    table: SignalsTable,
    known: Known,
    roles: tuple[str, str],
    names: Collection[str] | None,
) -> Finding:
    ours, theirs = table.id, known.ids
    both = None if ours is None or theirs is None else len(np.intersect1d(ours.astype(str), theirs.astype(str)))
    values = known.repeats is not None and _by_nature(shared, table, known.repeats, names)
    if both == 0 or values:
        why = "no id is in both" if both == 0 else "values repeat inside both sets as often"
        message = f"{found}: taken for other inputs with the same values, because {why}; leave them where they are"
        return warning("shared_rows", f"{message}, a set without its common values is no fair draw")
    hint = "an `id` column in both tables tells fit which inputs merely have the same values"
    if both:
        hint = (
            f"ids tell nothing, {both} of them are in both tables: number inputs across both if they are different ones"
        )
    message = f"{found}; a promise needs rows the scores were not fitted on: {_remedy(roles, 'inputs')}"
    return error("shared_rows", f"{message}; {hint}")


def _by_nature(shared: NDArray[np.bool_], table: SignalsTable, other: Repeats, names: Collection[str] | None) -> bool:
    """Whether rows are in both as two draws of one discrete source, or of one with a few values that stick, share them:
    never in a table copied whole.
    """
    hashes = table.row_hashes(names)
    mine, count = Repeats.of(hashes), int(shared.sum())
    same = np.array_equal(mine.times, other.times) and np.array_equal(mine.values, other.values)
    if (count == mine.rows and same) or not explained(count, mine, other):
        return False
    return len(np.unique(hashes[shared])) <= STICKING or discrete(table, names)


def discrete(table: SignalsTable, names: Collection[str] | None = None) -> bool:
    """Whether single numbers come back in rows that differ elsewhere: in half of the columns that vary, at most three quarters
    of the different rows (of a few thousand) have a number of their own, the commonest one of a column left out.

    Copies of measured rows repeat as wholes, and what a ReLU cuts off is one number alone.
    """
    rows = table.take(np.linspace(0, len(table) - 1, min(len(table), DISCRETE_ROWS)).astype(np.int64))
    parts = [np.asarray(rows.signals[n][:, :DISCRETE_COLUMNS]) for n in sorted(names or table.signals)]
    different = np.unique(np.concatenate(parts, axis=1).astype(np.float32), axis=0)
    counts = [np.unique(column, return_counts=True)[1] for column in different.T]
    own = [(len(c) - 1) / (len(different) - c.max()) for c in counts if c.max() < len(different)]
    return not own or float(np.median(own)) <= OWN_NUMBERS


def _of_groups(
    found: str,
    shared: NDArray[np.bool_],
    table: SignalsTable,
    known: Known,
    roles: tuple[str, str],
    names: Collection[str] | None,
) -> Finding:
    assert table.grouping is not None  # noqa: S101  rows that stand alone are judged by themselves
    index, count = table.grouping.index, table.grouping.count
    telling = shared & _once(table, known.marks, names)
    sizes, held, told = (np.bincount(index, weights=w, minlength=count) for w in (None, shared, telling))
    whole, touched = int(((sizes == held) & (told > 1)).sum()), int((told > 0).sum())
    if whole or touched > CHANCE * count:
        message = f"{found}: {whole} of {count} groups are there as a whole, {touched} with a row of their own"
        remedy = _remedy(roles, "groups")
        return error("shared_rows", f"{message}; a promise needs groups the scores were not fitted on: {remedy}")
    message = (
        f"{found}, in {int((held > 0).sum())} of {count} groups, none of which is there as a whole with rows of its own"
    )
    return warning("shared_rows", f"{message}: taken for chance; if an image is in both sets, take it out of one")


def _remedy(roles: tuple[str, str], what: str) -> str:
    """The calibration set stands for what comes in service, so rows are taken out of the other one."""
    role, other = roles
    if CALIBRATION not in roles:
        return f"take these {what} out of the {role} set"
    return f"take these {what} out of the {other if role == CALIBRATION else role} set, so that calibration stays a fair draw"


def _once(table: SignalsTable, held: NDArray[np.uint64], names: Collection[str] | None) -> NDArray[np.bool_]:
    """(N,) rows that stand in neither set more often than its rarest row."""
    bare = table.row_hashes(names, target=False)
    found = np.ones(len(bare), np.bool_)
    for hashes in (bare, held):
        values, counts = np.unique(hashes, return_counts=True)
        # Of a set that was joined with itself every row is there twice.
        found &= ~np.isin(bare, values[counts > counts.min()])
    return found
