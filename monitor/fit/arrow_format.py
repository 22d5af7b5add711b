"""Parquet and Arrow IPC: signals are list columns of one length, read batch by batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from demur.monitor.fit.beside import beside_column, beside_of
from demur.monitor.fit.errors import TableError
from demur.monitor.fit.memory import Budget

BATCH_ROWS = 8192
FILE_MAGIC = b"ARROW1"
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


class ParquetTable:
    """A Parquet file, or a folder of them in the order of their names, decoded one column and one batch at a time."""

    def __init__(self, path: Path, budget: Budget) -> None:
        self._path, self._budget = path, budget
        self._files = parquet_files(path) if path.is_dir() else [path]
        self._rows, self._names = 0, tuple[str, ...]()
        self._beside: dict[str, list[str]] = {}
        for number, file in enumerate(self._files):
            with pq.ParquetFile(file) as opened:
                self._rows += opened.metadata.num_rows
                names = tuple(opened.schema_arrow.names)
                for name, text in beside_of(opened.schema_arrow.metadata).items():
                    self._beside.setdefault(name, []).append(text)
            if number and set(names) != set(self._names):
                raise TableError(f"{file}: expected columns {sorted(self._names)}, got {sorted(names)}; write it again")
            self._names = self._names or names
        _refuse_twins(path, self._names)

    @property
    def names(self) -> tuple[str, ...]:
        return (*self._names, *(name for name in self._beside if name not in self._names))

    def read(self, name: str) -> NDArray[Any]:
        """The column: (N,) for plain values, (N, width) for lists.

        Raises: TableError for nulls, lists of unequal length, unsupported types or fewer rows than the footer says.
        """
        if name not in self._names:
            return beside_column(self._beside[name], f"{self._path}: {name}")
        return _gathered(self._arrays(name), self._rows, f"{self._path}: {name}", self._budget)

    def _arrays(self, name: str) -> Iterator[Any]:
        for file in self._files:
            with pq.ParquetFile(file, memory_map=True, page_checksum_verification=True) as opened:
                for batch in opened.iter_batches(BATCH_ROWS, columns=[name]):
                    yield batch.column(0)


class ArrowTable:
    """An Arrow IPC file (Feather version 2) or stream. Both are read as the stream they hold, up to its end marker."""

    def __init__(self, path: Path, budget: Budget) -> None:
        self._path, self._budget = path, budget
        with pa.ipc.open_stream(self._stream()) as reader:
            self._names = tuple(reader.schema.names)
            self._beside = {name: [text] for name, text in beside_of(reader.schema.metadata).items()}
        _refuse_twins(path, self._names)

    @property
    def names(self) -> tuple[str, ...]:
        return (*self._names, *(name for name in self._beside if name not in self._names))

    def read(self, name: str) -> NDArray[Any]:
        """The column: (N,) for plain values, (N, width) for lists.

        Raises: TableError for nulls, unequal lists, unsupported types or a stream that ends before its last byte.
        """
        if name not in self._names:
            return beside_column(self._beside[name], f"{self._path}: {name}")
        stream, options = self._stream(), pa.ipc.IpcReadOptions(included_fields=[self._names.index(name)])
        with pa.ipc.open_stream(self._stream(), options=options) as reader:
            rows = sum(len(batch) for batch in reader)
        with pa.ipc.open_stream(stream, options=options) as reader:
            column = _gathered(_columns(reader), rows, f"{self._path}: {name}", self._budget)
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


def parquet_files(folder: Path) -> list[Path]:
    """The Parquet files of a folder, by name."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in (".parquet", ".pq"))


def _gathered(arrays: Iterator[Any], rows: int, where: str, budget: Budget) -> NDArray[Any]:
    """One column of `rows` rows; numbers are written straight into one array, on disk when memory is short."""
    parts = (_numbers(array, where, budget) for array in arrays if len(array))
    first = next(parts, np.empty(0, np.float32))
    if first.dtype.kind == "U":
        return _strings([first, *parts], rows, where, budget)
    column, end = budget.array((rows, *first.shape[1:]), first.dtype, where), 0
    for part in itertools.chain([first], parts):
        if part.shape[1:] != first.shape[1:]:
            raise TableError(
                f"{where}: expected lists of one length, got {first.shape[1:]} and {part.shape[1:]}; pad or drop those rows"
            )
        if part.dtype != first.dtype:
            raise TableError(f"{where}: expected {first.dtype} in every file, got {part.dtype}; write them alike")
        column[end : end + len(part)] = part[: rows - end]
        end += len(part)
    return _complete(column, end, rows, where)


def _strings(parts: list[NDArray[Any]], rows: int, where: str, budget: Budget) -> NDArray[Any]:
    budget.take(sum(part.nbytes for part in parts), where)
    column = np.concatenate(parts)
    return _complete(column, len(column), rows, where)


def _complete(column: NDArray[Any], got: int, rows: int, where: str) -> NDArray[Any]:
    if got != rows:
        raise TableError(f"{where}: expected {rows:,} rows as the file says, got {got:,}; write it again")
    return column


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
        budget.check(len(array) * longest * 4, where)
        return np.asarray(array.to_pylist(), dtype=np.str_)
    return _plain(array, where, budget)


def _plain(array: Any, where: str, budget: Budget) -> NDArray[Any]:
    kind = array.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise TableError(f"{where}: expected numbers, strings, or lists of numbers, got {kind}; convert the column")
    budget.check(array.nbytes, where)
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
            f"{where}: expected a number in every place, got {values.null_count} nulls; write missing cells of a table as NaN, or drop those rows"
        )
    return _plain(values, where, budget).reshape(len(array), width)


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind))
