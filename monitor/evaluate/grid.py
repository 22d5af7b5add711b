"""One score column as cells: how many units of every atom have each distinct score, as it is and resampled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from demur.monitor.evaluate.bootstrap import Resampler
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
    """scores (K,) ascending; cell (usable units,) int64: atom * K + place of the score."""

    scores: Values
    atoms: int
    cell: NDArray[np.int64]

    @classmethod
    def of(cls, pool: Pool, column: int, most: int | None = None) -> Grid:
        """The grid of a score over the pool's usable units; `most` bounds K as in `merged`."""
        distinct, index = merged(pool.scores(column), most)
        return cls(distinct, len(pool.atoms), pool.atom[pool.usable] * len(distinct) + index)

    def tally(self) -> Tally:
        """Every unit once."""
        found = np.bincount(self.cell, minlength=self.atoms * len(self.scores)).astype(np.float64)
        return Tally(self.scores, found.reshape((self.atoms, len(self.scores))))

    def resampled(self, resampler: Resampler, size: int) -> Iterator[Tally]:
        """Tallies of at most `size` resamples each."""
        for found in resampler.counts(self.cell, self.atoms * len(self.scores), size):
            yield Tally(self.scores, found.reshape((self.atoms, len(self.scores), -1)))


def _union(counts: Values, atoms: tuple[int, ...]) -> Values:
    whole: Values = counts[atoms[0]]
    for atom in atoms[1:]:
        whole = whole + counts[atom]
    return whole


def merged(values: Values, most: int | None = None) -> tuple[Values, NDArray[np.int64]]:
    """Distinct values ascending, and the place of each value among them.

    Beyond `most` distinct ones, neighbours are merged into that many bins of about as many units each, named for their
    highest value. Equal values are never parted.
    """
    distinct, index = np.unique(values, return_inverse=True)
    if most is None or len(distinct) <= most:
        return distinct, index.astype(np.int64)
    below = np.cumsum(np.bincount(index, minlength=len(distinct)))
    bin_of = np.minimum((below - 1) * most // len(index), most - 1)
    used, dense = np.unique(bin_of, return_inverse=True)
    last = np.searchsorted(bin_of, used, side="right") - 1
    return distinct[last], dense[index].astype(np.int64)
