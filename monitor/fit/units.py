"""Splitting a table into folds without cutting a group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from demur.monitor.config.policy import PolicyConfig
from demur.monitor.fit.plan import Plan
from demur.monitor.fit.table import SignalsTable

FOLD_A = 0.4  # of the calibration units feed the members of fusions; promises come from the rest


def split_units(table: SignalsTable, fractions: Sequence[float], seed: int) -> list[NDArray[np.int64]]:
    """Ascending row numbers of disjoint folds; fold i has about fractions[i] of the units (groups, else rows).

    The same table, fractions and seed give the same folds; fractions that sum to 1 leave no row out.
    Raises: ValueError for fractions that are not positive or sum to more than 1, or too few units to fill every fold.
    """
    shares = np.asarray(fractions, np.float64)
    if shares.ndim != 1 or not len(shares) or not (shares > 0).all() or shares.sum() > 1 + 1e-9:
        raise ValueError(f"fractions: expected positive numbers with a sum of at most 1, got {list(fractions)}")
    grouping = table.grouping
    unit = np.arange(len(table)) if grouping is None else grouping.index
    count = len(table) if grouping is None else grouping.count
    ends = np.rint(np.cumsum(shares) * count).astype(np.int64)
    if (np.diff(ends, prepend=0) < 1).any():
        kind = "rows" if grouping is None else "groups"
        raise ValueError(
            f"{table.source}: {count} {kind} cannot fill {len(shares)} folds of {list(fractions)}; add {kind}"
        )
    place = np.empty(count, np.int64)
    place[np.random.default_rng(seed).permutation(count)] = np.arange(count)
    fold = np.searchsorted(ends, place[unit], side="right")
    return [np.flatnonzero(fold == number) for number in range(len(shares))]


def split_folds(policy: PolicyConfig, planned: Plan, table: SignalsTable) -> tuple[SignalsTable | None, SignalsTable]:
    """Fold A for what fusions read, None when nothing does, and fold B for everything else; no unit is in both."""
    if not planned.folded:
        return None, table
    first, second = split_units(table, (FOLD_A, 1 - FOLD_A), policy.seed)
    return table.take(first), table.take(second)
