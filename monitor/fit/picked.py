"""Some rows of a table's columns; of mapped files, left where they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.monitor.fit.errors import TableError

PICKED_BYTES = 256 << 20


def positions(rows: Any, count: int, source: str) -> slice | NDArray[np.int64]:
    """What a slice, indices or a mask (count,) select: a slice where rows are consecutive.

    Raises: TableError for indices outside 0..count-1 or a mask of another length.
    """
    if isinstance(rows, slice):
        return rows
    index = np.asarray(rows)
    if index.dtype == np.bool_ and index.shape == (count,):
        index = np.flatnonzero(index)
    if index.ndim != 1 or (index.size and index.dtype.kind not in "iu"):
        raise TableError(f"{source}: expected row indices or a mask ({count},), got {index.shape} {index.dtype}")
    index = index.astype(np.int64)
    if index.size and (index.min() < 0 or index.max() >= count):
        raise TableError(f"{source}: expected rows 0..{count - 1}, got {index.min()}..{index.max()}")
    if index.size and (np.diff(index) == 1).all():
        return slice(int(index[0]), int(index[-1]) + 1)
    return index


def cut(columns: Mapping[str, NDArray[Any]], where: slice | NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """These rows of every column."""
    return {name: _part(array, where) for name, array in columns.items()}


def _part(array: NDArray[Any], where: slice | NDArray[np.int64]) -> Any:
    """Rows of a column; many rows of a mapped file are left there."""
    if isinstance(where, slice) or len(where) * array[:1].nbytes <= PICKED_BYTES:
        return array[where]
    mapped = isinstance(array, np.memmap | Picked) or isinstance(array.base, np.memmap)
    return Picked(array, where) if mapped else array[where]


@dataclass(frozen=True, eq=False)
class Picked:
    """Some rows of a mapped array, read when they are sliced: what the tables use of an ndarray, and no more."""

    array: NDArray[Any] | Picked
    index: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.index), *self.array.shape[1:])

    @property
    def ndim(self) -> int:
        return self.array.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, part: Any) -> NDArray[Any]:
        found: NDArray[Any] = self.array[self.index[part]]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)
