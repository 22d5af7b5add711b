"""How often values stand in a table: what tells a discrete table, where rows repeat by nature, from one with copies in it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ERRORS = 4.0  # standard errors between two shares that are one share


@dataclass(frozen=True, eq=False)
class Repeats:
    """times (K,) int64, ascending: how often a value stands in the table; values (K,) int64: how many values stand so often."""

    times: NDArray[np.int64]
    values: NDArray[np.int64]

    @classmethod
    def of(cls, hashes: NDArray[np.uint64]) -> Repeats:
        """From the hashes of all rows, (N,)."""
        times, values = np.unique(np.unique(hashes, return_counts=True)[1], return_counts=True)
        return cls(times.astype(np.int64), values.astype(np.int64))

    @property
    def rows(self) -> int:
        return int(self.times @ self.values)

    @property
    def copies(self) -> int:
        """Rows beyond the first of each value."""
        return self.rows - int(self.values.sum())

    def met(self, among: int) -> float:
        """The share of rows that have an equal one `among` so many others of the table, drawn with replacement."""
        others = self.rows - 1
        if others < 1:
            return 0.0
        alone = (1 - min(among, others) / others) ** (self.times - 1)
        return float((self.times * self.values) @ (1 - alone) / self.rows)


def repeated_more(table: Repeats, other: Repeats) -> bool:
    """Whether rows repeat inside a table more than inside the other, both seen in as many rows as the smaller one has."""
    among = min(table.rows, other.rows) - 1
    mine, theirs = table.met(among), other.met(among)
    pooled = (mine * table.rows + theirs * other.rows) / (table.rows + other.rows)
    return mine - theirs > _noise(pooled, table, other)


def explained(shared: int, table: Repeats, other: Repeats) -> bool:
    """Whether so many rows of a table may be in the other as two draws of one discrete source share values.

    Then a row of the table is in the other no more often than one of the other's own rows has an equal one there (to leave
    one out: Good 1953), and that is no work of copies: rows repeat inside the other no more than inside the table.
    """
    expected = other.met(other.rows - 1)
    return shared / table.rows - expected <= _noise(expected, table, other) and not repeated_more(other, table)


def _noise(share: float, table: Repeats, other: Repeats) -> float:
    return ERRORS * math.sqrt(share * (1 - share) * (1 / table.rows + 1 / other.rows))
