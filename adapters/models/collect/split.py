"""Which table each input goes to, never cutting a group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.monitor.errors import ConfigurationError

TOLERANCE = 1e-6


def shares(text: str | Sequence[float] | None, tables: int) -> tuple[float, ...]:
    """Shares that sum to 1 from `0.7/0.3`; None for one table. Raises: ConfigurationError."""
    if text is None:
        found: tuple[float, ...] = (1.0,)
    else:
        try:
            found = tuple(float(part) for part in (text.split("/") if isinstance(text, str) else text))
        except ValueError as error:
            raise ConfigurationError(f"--split {text}: expected shares such as 0.7/0.3") from error
    if len(found) != tables:
        raise ConfigurationError(
            f"expected one share for each table: --split 0.7/0.3 A B; got {len(found)} shares and {tables} tables"
        )
    if any(not 0 < share <= 1 for share in found) or abs(sum(found) - 1) > TOLERANCE:
        raise ConfigurationError(f"--split {text}: expected shares above 0 that sum to 1")
    return found


def assigned(groups: NDArray[Any], parts: Sequence[float], seed: int) -> NDArray[np.int64]:
    """(N,) the number of the table of each input, groups (N,) drawn at random until each table has its share of inputs.

    Raises: ConfigurationError when a table would stay empty.
    """
    names, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    middle = (np.cumsum(sizes[order]) - sizes[order] / 2) / len(groups)
    table = np.empty(len(names), np.int64)
    table[order] = np.searchsorted(np.cumsum(parts)[:-1], middle, side="right")
    found: NDArray[np.int64] = table[index.reshape(-1)]
    if len(np.unique(found)) < len(parts):
        raise ConfigurationError(
            f"--split: {len(names)} groups of inputs cannot fill {len(parts)} tables; collect more, or split otherwise"
        )
    return found
