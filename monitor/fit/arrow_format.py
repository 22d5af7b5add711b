"""Parquet and Arrow IPC: signals are list columns of one length, read batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from demur.monitor.fit.errors import TableError
from demur.monitor.fit.memory import Budget

BATCH_ROWS = 8192
FILE_MAGIC = b"ARROW1"
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


class ParquetTable:
    """A Parquet file, decoded one column and one batch of rows at a time."""

    def __init__(self, path: Path, budget: Budget) -> None:
        self._path, self._budget = path, budget
        with pq.ParquetFile(path) as file:
            self._rows: int = file.metadata.num_rows
            self._names = tuple(file.schema_arrow.names)
        _refuse_twins(path, self._names)

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    def read(self, name: str) -> NDArray[Any]:
        """The column: (N,) for plain values, (N, width) for lists.

        Raises: TableError for nulls, lists of unequal length, unsupported types or fewer rows than the footer says.
        """
        where = f"{self._path}: {name}"
        with pq.ParquetFile(self._path, memory_map=True, page_checksum_verification=True) as file:
            arrays = (batch.column(0) for batch in file.iter_batches(BATCH_ROWS, columns=[name]))
            column = _gathered(arrays, where, self._budget)
        if len(column) != self._rows:
            raise TableError(
                f"{where}: expected {self._rows:,} rows as the footer says, got {len(column):,}; write it again"
            )
        return column


class ArrowTable:
    """An Arrow IPC file (Feather version 2) or stream; which of the two is seen from its first bytes."""

    def __init__(self, path: Path, budget: Budget) -> None:
        self._path, self._budget = path, budget
        with path.open("rb") as stream:
            self._is_file = stream.read(len(FILE_MAGIC)) == FILE_MAGIC
        if not self._is_file:
            _refuse_open_end(path)
        with pa.memory_map(str(path)) as source:
            self._names = tuple(self._reader(source).schema.names)
        _refuse_twins(path, self._names)

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    def read(self, name: str) -> NDArray[Any]:
        """The column: (N,) for plain values, (N, width) for lists.

        Raises: TableError for nulls, unequal lists, unsupported types or a stream that ends before the file does.
        """
        with pa.memory_map(str(self._path)) as source:
            column = _gathered(self._arrays(source, self._names.index(name)), f"{self._path}: {name}", self._budget)
            if not self._is_file and source.tell() != source.size():
                raise TableError(
                    f"{self._path}: expected a stream up to byte {source.size():,}, it ends at {source.tell():,}: "
                    "write it again"
                )
        return column

    def _reader(self, source: Any, only: list[int] | None = None) -> Any:
        if self._is_file:
            return pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=only))
        return pa.ipc.open_stream(source, options=pa.ipc.IpcReadOptions(included_fields=only))

    def _arrays(self, source: Any, index: int) -> Iterator[Any]:
        reader = self._reader(source, [index])
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches)) if self._is_file else reader
        for batch in batches:
            batch.validate(
                full=True
            )  # buffers of a damaged file point anywhere; reading them unchecked ends the process
            yield batch.column(0)


def _refuse_open_end(path: Path) -> None:
    # A stream cut between two messages reads as complete: only the end marker tells (measured, pyarrow 26).
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(size - len(END_OF_STREAM), 0))
        tail = stream.read()
    if tail != END_OF_STREAM:
        raise TableError(
            f"{path}: expected an Arrow file, or a stream with its end marker, got {size:,} bytes without; "
            "it may be truncated: write it again"
        )


def _refuse_twins(path: Path, names: tuple[str, ...]) -> None:
    if len(set(names)) != len(names):
        twin = next(name for name in names if names.count(name) > 1)
        raise TableError(f"{path}: {twin}: two columns have this name; rename one")


def _gathered(arrays: Iterator[Any], where: str, budget: Budget) -> NDArray[Any]:
    parts: list[NDArray[Any]] = []
    for array in arrays:
        if len(array) == 0:
            continue
        part = _numbers(array, where, budget)
        if parts and part.shape[1:] != parts[0].shape[1:]:
            raise TableError(
                f"{where}: expected lists of one length, got {parts[0].shape[1:]} and {part.shape[1:]}; "
                "pad or drop those rows"
            )
        parts.append(part)
    if not parts:
        return np.empty(0, np.float32)
    budget.take(sum(part.nbytes for part in parts), where)
    return np.concatenate(parts)


def _numbers(array: Any, where: str, budget: Budget) -> NDArray[Any]:
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if array.null_count:
        raise TableError(
            f"{where}: expected a value in every row, got {array.null_count} nulls; drop or fill those rows"
        )
    if _is_list(array.type):
        return _matrix(array, where, budget)
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        longest = pc.max(pc.utf8_length(array)).as_py()
        budget.take(len(array) * longest * 4, where)
        return np.asarray(array.to_pylist(), dtype=np.str_)
    return _plain(array, where, budget)


def _plain(array: Any, where: str, budget: Budget) -> NDArray[Any]:
    kind = array.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise TableError(f"{where}: expected numbers, strings, or lists of numbers, got {kind}; convert the column")
    budget.take(array.nbytes, where)
    return np.array(array.to_numpy(zero_copy_only=False))


def _matrix(array: Any, where: str, budget: Budget) -> NDArray[Any]:
    if pa.types.is_fixed_size_list(array.type):
        width = array.type.list_size
    else:
        lengths = pc.unique(pc.list_value_length(array)).to_pylist()
        if len(lengths) != 1:
            raise TableError(
                f"{where}: expected lists of one length, got lengths {sorted(lengths)[:5]}; pad or drop those rows"
            )
        width = lengths[0]
    values = array.flatten()
    if values.null_count:
        raise TableError(
            f"{where}: expected a number in every place, got {values.null_count} nulls; fill them or drop those rows"
        )
    return _plain(values, where, budget).reshape(len(array), width)


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind))
