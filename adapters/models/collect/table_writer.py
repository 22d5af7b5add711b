"""A signals table that grows batch by batch, in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from demur.adapters.models.collect.parts import Part, Parts
from demur.adapters.models.collect.streamed import Column, Streamed, check_target, write
from demur.monitor.errors import DemurError
from demur.monitor.fit.columns import BESIDE, EMPTY_GROUPS, HEAD, ORIGIN, head_array, row_column
from demur.monitor.fit.errors import TableError
from demur.monitor.fit.schema import checked


class TableWriter:
    """`append` batches, then `close`: the table appears whole at the end. As a context manager it closes itself, and
    leaves nothing behind when the block fails.

    >>> with TableWriter("reference.npz") as table:  # doctest: +SKIP
    ...     table.append({"logits": logits, "label": label})
    """

    def __init__(self, path: str | Path) -> None:
        """`path`: .npz, .parquet, or a folder of .npy. Raises: TableError when nothing can be written there."""
        self._path = Path(path)
        check_target(self._path)
        self._parts = Parts(self._path.with_name(f".{self._path.name}.rows"), {"work": "append"}, restart=True)
        self._head: dict[str, NDArray[np.float32]] = {}
        self._beside: dict[str, list[NDArray[Any]]] = {}

    def __len__(self) -> int:
        return self._parts.done

    def append(self, columns: Mapping[str, Any]) -> None:
        """Rows in the columns of a signals table: signals (N, width) floats, kept as float32; label, id, ... (N,); what a
        table has beside its rows. Where `empty_groups` are among it, there may be no rows at all.

        They are copied: the caller may use its arrays again.

        Raises: TableError for a wrong shape or dtype, or other columns than in the first batch.
        """
        arrays = {name: np.asarray(value) for name, value in columns.items()}
        if EMPTY_GROUPS in arrays and not any(array.size for name, array in arrays.items() if _of_rows(name)):
            self._keep(arrays)
            return
        parts = checked(arrays, None, "rows")
        head = {**parts.head}
        if head:
            self.head(head)
        with np.errstate(over="ignore"):
            signals = {name: np.array(array, np.float32) for name, array in parts.signals.items()}
        self._keep(arrays)
        rows = {**signals, **{name: np.array(array) for name, array in parts.given.items()}}
        self._parts.append(rows, len(next(iter(rows.values()))))

    def _keep(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        for name in set(BESIDE) & set(arrays):
            kept, array = self._beside.setdefault(name, []), arrays[name]
            ids = np.unique(row_column("group_id", array, name)) if array.size else None  # an empty list has no kind
            if ids is None or (name == ORIGIN and kept and np.array_equal(ids, kept[0])):
                continue
            if name == ORIGIN and kept:
                raise TableError(f"{name}: this batch was collected in another way than those before; write two tables")
            kept.append(ids)

    def head(self, head: Mapping[str, Any]) -> None:
        """The model's last linear layer: head_weight (C, D) and head_bias (C,). Raises: TableError."""
        for name, ndim in zip(HEAD, (2, 1), strict=True):
            if name in head:
                self._head[name] = head_array(np.asarray(head[name]), ndim, name)

    def close(self) -> Path:
        """Write the table. Raises: TableError when there are no rows."""
        self._parts.flush()
        if not self._parts.parts:
            self._parts.remove()
            raise TableError(f"{self._path}: no rows were appended, so there is no table to write")
        shapes = {name: shape for name, (shape, _) in self._parts.parts[0].columns().items()}
        columns = {name: self._column(name, *shape[1:]) for name, shape in shapes.items()}
        beside = {n: np.unique(np.concatenate(a)) if a else np.empty(0, np.int64) for n, a in self._beside.items()}
        write(self._path, Streamed(self._parts.done, columns, {**self._head, **beside}))
        self._parts.remove()
        return self._path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._parts.remove()

    def _column(self, name: str, width: int | None = None) -> Column:
        return Column(
            joint_dtype(self._parts.parts, name), width, lambda: (part.read(name) for part in self._parts.parts)
        )


def _of_rows(name: str) -> bool:
    return name not in (*BESIDE, *HEAD) and not name.startswith("_")


def joint_dtype(parts: list[Part], name: str) -> np.dtype[Any]:
    """The dtype that holds a column of every part: of strings, the longest. Raises: DemurError for mixed kinds."""
    kinds = {part.columns()[name][1] for part in parts}
    if len({dtype.kind for dtype in kinds}) != 1:
        raise DemurError(f"{name}: expected numbers or strings in every batch, got both")
    return np.result_type(*kinds)
