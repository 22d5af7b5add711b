"""The contract between a model's own outputs and what a monitor judges, for outputs that are not rows already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Observed:
    """What one answer about B inputs shows a monitor.

    `signals`: name to (N, width) float32. `group_id` (N,) int64 in 0..groups-1 says which input each row belongs to;
    None when every input is one row. `groups` = B, inputs without rows included.
    """

    signals: Mapping[str, NDArray[np.float32]]
    groups: int
    group_id: NDArray[np.int64] | None = None


class OutputAdapter(Protocol):
    """Turns output tensors into rows (boxes, regions, frames), and takes refused rows out of the tensors again."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the output tensors it reads."""
        ...

    def observe(self, tensors: Mapping[str, NDArray[Any]]) -> Observed:
        """The rows of these tensors. Raises: InvalidObservation when a tensor is absent or not of the stated layout."""
        ...

    def without(self, tensors: Mapping[str, NDArray[Any]], refused: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
        """The tensors in which rows marked in `refused` (N,) bool no longer count: same names, shapes and dtypes."""
        ...
