"""Which calibration units each stage may use; units are whole groups, so a split is never cut inside one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from demur.detectors.promises.sample import CalibrationSample


@dataclass(frozen=True, eq=False)
class Folds:
    """Units of the refusal rules and of each selective-risk rule.

    Refusal and selective stages share units only when every refusal threshold is an order statistic of independent units
    and uses no label. Then, given each threshold, the unit at it, and on which side of it every other unit falls, the others
    are independent and distributed as the truncated law of their side: the survivors are a fresh sample of what the refusal
    rules accept, once the units exactly at a threshold are dropped. A column chosen among several is chosen by all their
    thresholds, which say something about its survivors. Then, and otherwise, `disjoint`: half the units set the refusal
    thresholds, the rest are for the selective rules. Several selective rules never share units, since each uses labels.
    """

    part: NDArray[np.int64]
    disjoint: bool
    selective_rules: int

    def refusal(self) -> NDArray[np.bool_]:
        """(U,) bool: the units refusal thresholds come from."""
        return np.equal(self.part, 0 if self.disjoint else self.part)

    def selective(self, index: int) -> NDArray[np.bool_]:
        """(U,) bool: the units of the index-th selective-risk rule."""
        return np.equal(self.part, index + int(self.disjoint))

    def named(self, index: int | None) -> str:
        """The fold as recorded in the bundle; index None is the refusal stage."""
        parts = self.selective_rules + int(self.disjoint)
        if (index is None and not self.disjoint) or parts <= 1:
            return "all"
        return f"{1 if index is None else index + 1 + int(self.disjoint)} of {parts}"


def split(sample: CalibrationSample, selective_rules: int, seed: int, *, disjoint: bool) -> Folds:
    """A split of the units that is deterministic in `seed`."""
    units = sample.units
    shuffled = np.random.default_rng(seed).permutation(units)
    part = np.zeros(units, dtype=np.int64)
    first = units // 2 if disjoint else 0
    for index, chunk in enumerate(np.array_split(shuffled[first:], max(selective_rules, 1))):
        part[chunk] = index + int(disjoint)
    return Folds(part, disjoint, selective_rules)


def row_mask(sample: CalibrationSample, units: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(U,) units -> (n,) rows."""
    return units if sample.group is None else units[sample.group]
