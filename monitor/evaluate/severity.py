"""Whether scores rise with the severity of what was done to the inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from demur.monitor.evaluate.counts import Values, checked_scores, share
from demur.monitor.evaluate.errors import EvaluationError


@dataclass(frozen=True, eq=False)
class SeverityCounts:
    """Units of L ascending severity levels at K ascending distinct scores: units (K, L) or (K, L, B) float64."""

    levels: Values
    units: Values

    @classmethod
    def of(cls, scores: ArrayLike, severity: ArrayLike) -> SeverityCounts:
        """From a score and a severity for each unit, (N,) each.

        Raises: EvaluationError for NaN, unequal shapes, or fewer than two levels.
        """
        values, level = checked_scores(scores), checked_scores(severity)
        if values.shape != level.shape:
            raise EvaluationError(f"severity: expected {values.shape} as scores, got {level.shape}")
        levels, column = np.unique(level, return_inverse=True)
        if len(levels) < 2:
            raise EvaluationError(f"severity: expected at least two levels, got {levels.tolist()}; add one more table")
        distinct, row = np.unique(values, return_inverse=True)
        units = np.zeros((len(distinct), len(levels)))
        np.add.at(units, (row, column), 1.0)
        return cls(levels, units)

    def pairs(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Pairs of units of unequal severity: ordered as the severities, opposed, tied in score; () or (B,) each."""
        ordered, tied = np.zeros(self.units.shape[2:]), np.zeros(self.units.shape[2:])
        every = np.zeros(self.units.shape[2:])
        milder = np.zeros_like(self.units[:, 0])
        for level in range(1, len(self.levels)):
            milder = milder + self.units[:, level - 1]
            worse = self.units[:, level]
            ordered += (worse * (np.cumsum(milder, axis=0) - milder)).sum(axis=0)
            tied += (worse * milder).sum(axis=0)
            every += worse.sum(axis=0) * milder.sum(axis=0)
        return ordered, every - ordered - tied, tied


def kendall_tau_b(counts: SeverityCounts) -> NDArray[np.float64]:
    """(concordant - discordant) / sqrt(pairs untied in score x pairs untied in severity).

    Range: [-1, 1], higher is better, 0 is chance. Source: Kendall 1945; used so by MAD-Bench.
    """
    ordered, opposed, _ = counts.pairs()
    units = counts.units.sum(axis=(0, 1))
    scores, levels = counts.units.sum(axis=1), counts.units.sum(axis=0)
    pairs = units * (units - 1) / 2
    untied = (pairs - (scores * (scores - 1) / 2).sum(axis=0)) * (pairs - (levels * (levels - 1) / 2).sum(axis=0))
    found: NDArray[np.float64] = share(ordered - opposed, np.sqrt(untied))
    return found


def c_index(counts: SeverityCounts) -> NDArray[np.float64]:
    """Share of pairs of unequal severity that the score orders the same way, score ties counted half.

    Range: [0, 1], higher is better, 0.5 is chance; with two levels it is the AUROC. Source: Harrell et al. 1982.
    """
    ordered, opposed, tied = counts.pairs()
    found: NDArray[np.float64] = share(ordered + tied / 2, ordered + opposed + tied)
    return found
