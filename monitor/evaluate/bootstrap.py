"""Percentile bootstrap: every table resampled by itself, whole clusters where rows carry group ids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from demur.monitor.evaluate.errors import EvaluationError

FEWEST = 100
LARGEST_BATCH = 1 << 23
CROWD = 16  # units to a cell above which drawing the cell's count (0.4 µs) is cheaper than drawing its units
UNDEFINED = 0.05  # share of resamples without a value above which there is no interval


@dataclass(frozen=True, eq=False)
class Resampler:
    """Draws of units with replacement, as weights. Deterministic in `seed`, whatever the size of the batches.

    stratum (N,) int64: the table of each unit; cluster (N,) int64 or None: units drawn together, inside one stratum.
    """

    stratum: NDArray[np.int64]
    cluster: NDArray[np.int64] | None = None
    draws: int = 1000
    seed: int = 0
    confidence: float = 0.95
    strata: tuple[NDArray[np.int64], ...] = field(init=False)

    def __post_init__(self) -> None:
        """Raises: EvaluationError for too few draws, or a confidence outside [0.5, 1)."""
        if self.draws and self.draws < FEWEST:
            raise EvaluationError(f"bootstrap: expected 0 (none) or at least {FEWEST} resamples, got {self.draws}")
        if not 0.5 <= self.confidence < 1:
            raise EvaluationError(f"confidence: expected a share in [0.5, 1), got {self.confidence}")
        drawn = self.stratum[self._first]
        object.__setattr__(self, "strata", tuple(np.flatnonzero(drawn == s) for s in np.unique(drawn)))

    @cached_property
    def _index(self) -> NDArray[np.int64]:
        """(N,) which of the things that are drawn each unit belongs to."""
        if self.cluster is None:
            return np.arange(len(self.stratum))
        return np.unique(self.cluster, return_inverse=True)[1].astype(np.int64)

    @cached_property
    def _first(self) -> NDArray[np.int64]:
        """One unit of each thing that is drawn."""
        return np.unique(self._index, return_index=True)[1].astype(np.int64)

    def weights(self, size: int) -> Iterator[NDArray[np.float64]]:
        """Batches (N, b), b <= size, of whole-number weights: how often each unit was drawn, `draws` columns in all.

        A batch also stays below 64 MiB, a single column excepted.
        """
        size = max(1, min(size, LARGEST_BATCH // len(self.stratum)))
        seeds = np.random.SeedSequence(self.seed).spawn(self.draws)
        for start in range(0, self.draws, size):
            columns = [self._draw(np.random.default_rng(seed)) for seed in seeds[start : start + size]]
            drawn = np.stack(columns, axis=1)
            yield drawn if self.cluster is None else drawn[self._index]

    def counts(self, cell: NDArray[np.int64], cells: int, size: int) -> Iterator[NDArray[np.float64]]:
        """Batches (cells, b), b <= size, of resampled units in each cell; cell (N,) in 0..cells - 1 is each unit's.

        Where units stand alone and are many to a cell, the counts themselves are drawn (they are multinomial), so that the
        cost does not grow with N; else units are drawn and counted.
        """
        used = len(np.unique(cell))
        if self.cluster is None and len(cell) > CROWD * used:
            yield from self._multinomial(cell, cells, size)
            return
        from scipy.sparse import csr_array

        place = csr_array((np.ones(len(cell)), (cell, np.arange(len(cell)))), shape=(cells, len(cell)))
        for weights in self.weights(size):
            yield np.asarray(place @ weights)

    def _multinomial(self, cell: NDArray[np.int64], cells: int, size: int) -> Iterator[NDArray[np.float64]]:
        whole = [np.bincount(cell[self.stratum == s], minlength=cells) for s in np.unique(self.stratum)]
        parts = [(np.flatnonzero(count), count[count > 0], int(count.sum())) for count in whole]
        seeds = np.random.SeedSequence(self.seed).spawn(self.draws)
        for start in range(0, self.draws, size):
            batch = np.zeros((len(seeds[start : start + size]), cells))
            for row, seed in zip(batch, seeds[start:], strict=False):
                rng = np.random.default_rng(seed)
                for place, count, units in parts:
                    row[place] += rng.multinomial(units, count / units)
            yield np.ascontiguousarray(batch.T)

    def _draw(self, rng: np.random.Generator) -> NDArray[np.float64]:
        weight = np.empty(len(self._first))
        for members in self.strata:
            drawn = rng.integers(0, len(members), len(members))
            weight[members] = np.bincount(drawn, minlength=len(members))
        return weight

    def interval(self, found: NDArray[np.float64]) -> tuple[float, float] | None:
        """Percentile interval of the resampled values (draws,); None when too many of them are undefined (NaN)."""
        defined = found[~np.isnan(found)]
        if not len(found) or len(defined) < (1 - UNDEFINED) * len(found):
            return None
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(defined, [tail, 1 - tail], method="inverted_cdf")
        return float(low), float(high)
