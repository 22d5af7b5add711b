"""What the compiler needs to know of a policy: calibrated columns and the rules that look at them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from demur.detectors.reason import Reason
from demur.detectors.tensor import Signal

Unit = Literal["row", "group", "stream"]
Aggregate = Literal["max", "mean"]


@dataclass(frozen=True)
class Slicing:
    """What tells the slice of a row: the predicted class, the argmax of the logits, or a signal of width 1 that carries codes.

    `codes` are the known whole numbers, ascending, below 2^24 in size. A row with any other value is in one slice more, after
    the last; when `closed`, it cannot be assessed (UNAVAILABLE).
    """

    signal: Signal = "logits"
    codes: tuple[int, ...] = ()
    closed: bool = False

    def count(self, classes: int) -> int:
        """How many slices there are, with so many classes."""
        return len(self.codes) + 1 if self.codes else classes


BY_CLASS = Slicing()


@dataclass(frozen=True, eq=False)
class Column:
    """One calibrated number per unit.

    `calibration` holds float32 tables sorted ascending: one, or one per slice when `sliced`; () is uncalibrated. `sliced` by
    True is by the predicted class.
    """

    name: str
    score: str
    unit: Unit = "row"
    aggregate: Aggregate | None = None
    sliced: bool | Slicing = False
    calibration: tuple[NDArray[np.float32], ...] = ()

    @property
    def slicing(self) -> Slicing | None:
        """What it is sliced by; None when one table serves every row."""
        return BY_CLASS if self.sliced is True else self.sliced or None


@dataclass(frozen=True, eq=False)
class Rule:
    """Refuses a unit exactly when the column's score exceeds the threshold.

    `threshold` is (1,) float32, or one a slice when the column is sliced; `pooled` marks slices that use the pooled table's threshold.
    """

    name: str
    column: str
    reason: Reason
    threshold: NDArray[np.float32]
    pooled: NDArray[np.bool_]
