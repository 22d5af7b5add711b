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
    """An Arrow IPC file (Feather version 2) or stream. Both are read as the stream they hold, up to its end marker."""

    def __init__(self, path: Path, budget: Budget) -> None:
        self._path, self._budget = path, budget
        with pa.ipc.open_stream(self._stream()) as reader:
            self._names = tuple(reader.schema.names)
        _refuse_twins(path, self._names)

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    def read(self, name: str) -> NDArray[Any]:
        """The column: (N,) for plain values, (N, width) for lists.

        Raises: TableError for nulls, unequal lists, unsupported types or a stream that ends before its last byte.
        """
        stream, options = self._stream(), pa.ipc.IpcReadOptions(included_fields=[self._names.index(name)])
        with pa.ipc.open_stream(stream, options=options) as reader:
            column = _gathered(_columns(reader), f"{self._path}: {name}", self._budget)
        if stream.tell() != stream.size():
            raise TableError(
                f"{self._path}: expected a stream of {stream.size():,} bytes, it ends at {stream.tell():,}; write it again"
            )
        return column

    def _stream(self) -> Any:
        # A file's footer with one flipped bit silently lists fewer batches, and a stream cut between two messages
        # reads as complete (both measured, pyarrow 26): only the end marker in its place proves that nothing is missing.
        with pa.memory_map(str(self._path)) as source:
            content = source.read_buffer()
        start, end = 0, content.size
        if content[: len(FILE_MAGIC)].to_pybytes() == FILE_MAGIC:
            tail = content[max(end - len(FILE_MAGIC) - 4, 0) :].to_pybytes()
            start, end = 8, end - len(tail) - int.from_bytes(tail[:4], "little")
        if end < start + len(END_OF_STREAM) or content[end - len(END_OF_STREAM) : end].to_pybytes() != END_OF_STREAM:
            raise TableError(
                f"{self._path}: expected an Arrow file or stream with its end marker, got {content.size:,} bytes without; "
                "it may be truncated: write it again"
            )
        return pa.BufferReader(content[start:end])


def _columns(reader: Any) -> Iterator[Any]:
    for batch in reader:
        batch.validate(full=True)  # the buffers of a damaged file may point anywhere
        yield batch.column(0)


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
