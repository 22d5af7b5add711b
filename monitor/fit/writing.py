"""Writing named columns as a table file, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.monitor.fit.beside import metadata_of
from demur.monitor.fit.columns import BESIDE
from demur.monitor.fit.errors import TableError

Columns = Mapping[str, NDArray[Any]]


def write_columns(path: str | Path, columns: Columns) -> None:
    """Write columns by suffix: .npz, .safetensors, .parquet, .arrow / .feather; without a suffix a folder of .npy.

    A file is replaced as a whole. Parquet and Arrow take (N,) and (N, width), safetensors takes no strings.
    Raises: TableError for another suffix, a folder that is not empty, a column the format cannot hold.
    """
    path = Path(path)
    if path.suffix == "":
        return _folder(path, columns)
    if path.suffix not in WRITERS:
        raise TableError(f"{path}: expected one of {', '.join(WRITERS)}, or a folder without suffix, got {path.suffix}")
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            WRITERS[path.suffix](file, columns)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return None


def _folder(path: Path, columns: Columns) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise TableError(f"{path}: expected a new or empty folder, got one with files; choose another name")
    path.mkdir(parents=True, exist_ok=True)
    for name, array in columns.items():
        np.save(path / f"{name}.npy", array, allow_pickle=False)


def _npz(file: Any, columns: Columns) -> None:
    arrays: dict[str, Any] = dict(columns)
    np.savez(file, **arrays)


def _safetensors(file: Any, columns: Columns) -> None:
    from safetensors.numpy import save

    rows = {name: array for name, array in columns.items() if name not in BESIDE}
    for name, array in rows.items():
        if array.dtype.kind not in "fiub":
            raise TableError(f"{name}: expected numbers for .safetensors, got {array.dtype}; write .npz or .parquet")
    file.write(save({name: np.ascontiguousarray(array) for name, array in rows.items()}, metadata_of(columns) or None))


def _parquet(file: Any, columns: Columns) -> None:
    import pyarrow.parquet as pq

    pq.write_table(_arrow_table(columns), file, write_page_checksum=True)


def _arrow(file: Any, columns: Columns) -> None:
    import pyarrow as pa

    table = _arrow_table(columns)
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _arrow_table(columns: Columns) -> Any:
    import pyarrow as pa

    of_rows = {name: array for name, array in columns.items() if name not in BESIDE}
    rows = max(len(array) for array in of_rows.values())
    made = {}
    for name, array in of_rows.items():
        if array.ndim > 2 or len(array) != rows:
            raise TableError(
                f"{name}: expected ({rows},) or ({rows}, width), got {array.shape}; write .npz or a folder"
            )
        if array.ndim == 2:
            made[name] = pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), array.shape[1])
        else:
            made[name] = pa.array(array.tolist() if array.dtype.kind == "U" else array)
    return pa.table(made, metadata=metadata_of(columns) or None)


WRITERS: dict[str, Callable[[Any, Columns], None]] = {
    ".npz": _npz,
    ".safetensors": _safetensors,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".feather": _arrow,
}
