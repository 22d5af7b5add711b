"""Writing a table that need not fit into memory: column by column, or block by block."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from demur.monitor.fit.beside import metadata_of
from demur.monitor.fit.errors import TableError

BLOCK_BYTES = 8 << 20
FEWEST_ROWS = 64
EPOCH = (1980, 1, 1, 0, 0, 0)
SUFFIXES = (".npz", ".parquet", ".pq")


@dataclass(frozen=True, slots=True)
class Column:
    """One column: dtype, width (None for (N,)), and its values in parts, as often as they are asked for."""

    dtype: np.dtype[Any]
    width: int | None
    parts: Callable[[], Iterator[NDArray[Any]]]


@dataclass(frozen=True, slots=True)
class Streamed:
    """N rows in columns, and arrays beside the rows: Parquet keeps short lists as metadata, and cannot hold a head."""

    rows: int
    columns: Mapping[str, Column]
    beside: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def check_target(path: Path) -> None:
    """Whether a table can be written there, asked before the work. Raises: TableError."""
    if path.suffix and path.suffix not in SUFFIXES:
        raise TableError(f"{path}: expected {', '.join(SUFFIXES)}, or a folder without suffix, got {path.suffix}")
    if path.suffix and path.is_dir():
        raise TableError(f"{path}: expected a file, there is a folder of that name; choose another name")
    if not path.suffix and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise TableError(f"{path}: expected a new or empty folder, got one with files; choose another name")
    if not path.parent.is_dir():
        raise TableError(f"{path}: there is no folder {path.parent}; make it first")


def write(path: Path, table: Streamed) -> None:
    """The table as .npz, .parquet or a folder of .npy, whole or not at all. The same rows give the same bytes."""
    part = path.with_name(f".{path.name}.part")
    try:
        if path.suffix == ".npz":
            _npz(part, table)
        elif path.suffix:
            _parquet(part, table)
        else:
            shutil.rmtree(part, ignore_errors=True)
            _folder(part, table)
        part.replace(path)
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        part.unlink(missing_ok=True)


def _npz(path: Path, table: Streamed) -> None:
    with path.open("wb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, column in _all(table):
                with archive.open(zipfile.ZipInfo(f"{name}.npy", EPOCH), "w", force_zip64=True) as stream:
                    _npy(stream, table, column)
        file.flush()
        os.fsync(file.fileno())


def _folder(path: Path, table: Streamed) -> None:
    path.mkdir()
    for name, column in _all(table):
        with (path / f"{name}.npy").open("wb") as stream:
            _npy(stream, table, column)
            stream.flush()
            os.fsync(stream.fileno())


def _all(table: Streamed) -> Iterator[tuple[str, Column | NDArray[Any]]]:
    yield from table.columns.items()
    yield from table.beside.items()


def _npy(stream: IO[bytes], table: Streamed, column: Column | NDArray[Any]) -> None:
    if isinstance(column, np.ndarray):
        np.lib.format.write_array(stream, np.ascontiguousarray(column), (1, 0), allow_pickle=False)
        return
    shape = (table.rows,) if column.width is None else (table.rows, column.width)
    header = {"descr": np.lib.format.dtype_to_descr(column.dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    written = 0
    for part in column.parts():
        stream.write(np.ascontiguousarray(part, column.dtype).tobytes())
        written += len(part)
    if written != table.rows:
        raise TableError(f"expected {table.rows} rows in every column, got {written}; begin again")


def _parquet(path: Path, table: Streamed) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row_bytes = sum(column.dtype.itemsize * (column.width or 1) for column in table.columns.values())
    size = max(FEWEST_ROWS, BLOCK_BYTES // row_bytes)
    blocks = {name: _blocks(column, size) for name, column in table.columns.items()}
    words = [name for name, column in table.columns.items() if column.dtype.kind == "U"]
    fields = [(name, _arrow_type(pa, column)) for name, column in table.columns.items()]
    schema = pa.schema(fields, metadata=metadata_of(table.beside) or None)
    with path.open("wb") as file:
        with pq.ParquetWriter(file, schema, write_page_checksum=True, use_dictionary=words) as writer:
            for parts in zip(*blocks.values(), strict=True):
                arrays = [_arrow(pa, part, kind) for part, kind in zip(parts, schema.types, strict=True)]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
        file.flush()
        os.fsync(file.fileno())


def _blocks(column: Column, size: int) -> Iterator[NDArray[Any]]:
    """The column in blocks of `size` rows, however its parts are cut."""
    held: list[NDArray[Any]] = []
    for part in column.parts():
        held.append(part)
        if sum(map(len, held)) < size:
            continue
        joined = np.concatenate(held)
        whole = len(joined) // size * size
        yield from (joined[start : start + size] for start in range(0, whole, size))
        held = [joined[whole:].copy()]
    if sum(map(len, held)):
        yield np.concatenate(held)


def _arrow_type(pa: Any, column: Column) -> Any:
    kind = pa.string() if column.dtype.kind == "U" else pa.from_numpy_dtype(column.dtype)
    return kind if column.width is None else pa.list_(kind, column.width)


def _arrow(pa: Any, part: NDArray[Any], kind: Any) -> Any:
    if part.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), part.shape[1])
    return pa.array(part.tolist() if part.dtype.kind == "U" else part, kind)
