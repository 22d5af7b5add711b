"""One score column as a matrix that turns unit weights into counts of every atom at every distinct score."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.monitor.evaluate.counts import Counts, Values
from demur.monitor.evaluate.pool import Pool
from demur.monitor.evaluate.questions import Question


@dataclass(frozen=True, eq=False)
class Tally:
    """counts (atoms, K) or (atoms, K, B): units of every atom at each distinct score; `accepted`, those at or below it."""

    scores: Values
    counts: Values

    @cached_property
    def accepted(self) -> Values:
        """Summed once for all questions: they add atoms up, and a running sum of sums is a sum of running sums."""
        return np.asarray(np.cumsum(self.counts, axis=1))

    def ask(self, question: Question) -> Counts:
        """The question's good and bad units at every score."""
        sides = [(_union(self.counts, atoms), _union(self.accepted, atoms)) for atoms in (question.good, question.bad)]
        (good, good_accepted), (bad, bad_accepted) = sides
        return Counts.summed(self.scores, good, bad, good_accepted, bad_accepted)


@dataclass(frozen=True, eq=False)
class Grid:
    """scores (K,) ascending; `cells` sparse (atoms * K, units): weights (units, B) become counts by one product."""

    scores: Values
    atoms: int
    cells: Any

    @classmethod
    def of(cls, pool: Pool, column: int, most: int | None = None) -> Grid:
        """The grid of a score over the pool's usable units.

        `most` bounds K: beyond it, neighbouring scores are merged into that many bins of about as many units each.
        """
        from scipy.sparse import csr_array

        values = pool.scores(column)
        distinct, index = np.unique(values, return_inverse=True)
        if most is not None and len(distinct) > most:
            distinct, index = _merged(distinct, index, most)
        atom = pool.atom[pool.usable]
        units = len(values)
        shape = (len(pool.atoms) * len(distinct), units)
        cells = csr_array((np.ones(units), (atom * len(distinct) + index, np.arange(units))), shape=shape)
        return cls(distinct, len(pool.atoms), cells)

    def tally(self, weights: NDArray[np.float64] | None = None) -> Tally:
        """Every unit once, or as often as whole-number weights (units, B) say, for B resamples."""
        if weights is None:
            weights = np.ones(self.cells.shape[1])
        found = np.asarray(self.cells @ weights, np.float64)
        return Tally(self.scores, found.reshape((self.atoms, len(self.scores), *weights.shape[1:])))


def _union(counts: Values, atoms: tuple[int, ...]) -> Values:
    whole: Values = counts[atoms[0]]
    for atom in atoms[1:]:
        whole = whole + counts[atom]
    return whole


def _merged(distinct: Values, index: NDArray[Any], most: int) -> tuple[Values, NDArray[Any]]:
    """Scores cut into `most` bins by how many units lie below; a bin is named for its highest score."""
    below = np.cumsum(np.bincount(index, minlength=len(distinct)))
    bin_of = np.minimum((below - 1) * most // len(index), most - 1)
    used, dense = np.unique(bin_of, return_inverse=True)
    last = np.searchsorted(bin_of, used, side="right") - 1
    return distinct[last], dense[index]
