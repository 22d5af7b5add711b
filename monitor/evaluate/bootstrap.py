"""Percentile bootstrap: every table resampled by itself, whole clusters where rows carry group ids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from demur.monitor.evaluate.errors import EvaluationError

FEWEST = 100
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
        """Batches (N, b), b <= size, of whole-number weights: how often each unit was drawn, `draws` columns in all."""
        seeds = np.random.SeedSequence(self.seed).spawn(self.draws)
        for start in range(0, self.draws, size):
            columns = [self._draw(np.random.default_rng(seed)) for seed in seeds[start : start + size]]
            yield np.stack(columns, axis=1)[self._index]

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
