"""What the compiler needs to know of a policy: calibrated columns and the rules that look at them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from demur.detectors.reason import Reason

Unit = Literal["row", "group", "stream"]
Aggregate = Literal["max", "mean"]


@dataclass(frozen=True, eq=False)
class Column:
    """One calibrated number per unit.

    `calibration` holds float32 tables sorted ascending: one, or one per predicted class when `sliced`; () is uncalibrated.
    """

    name: str
    score: str
    unit: Unit = "row"
    aggregate: Aggregate | None = None
    sliced: bool = False
    calibration: tuple[NDArray[np.float32], ...] = ()


@dataclass(frozen=True, eq=False)
class Rule:
    """Refuses a unit exactly when the column's score exceeds the threshold.

    `threshold` is (1,) float32, or (C,) when the column is sliced; `pooled` marks slices that use the pooled table's threshold.
    """

    name: str
    column: str
    reason: Reason
    threshold: NDArray[np.float32]
    pooled: NDArray[np.bool_]
