"""Writers of the same columns in every format a signals table can be read from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file


def arrow(columns: dict[str, np.ndarray], fixed: bool = True) -> pa.Table:
    arrays = {}
    for name, array in columns.items():
        if array.ndim == 2:
            values = pa.array(array.ravel())
            if fixed:
                arrays[name] = pa.FixedSizeListArray.from_arrays(values, array.shape[1])
            else:
                offsets = np.arange(0, array.size + 1, array.shape[1], dtype=np.int32)
                arrays[name] = pa.ListArray.from_arrays(offsets, values)
        else:
            arrays[name] = pa.array(array.tolist()) if array.dtype.kind == "U" else pa.array(array)
    return pa.table(arrays)


def write_npz(path: Path, columns: dict[str, np.ndarray]) -> Path:
    np.savez_compressed(path / "t.npz", **columns)
    return path / "t.npz"


def write_folder(path: Path, columns: dict[str, np.ndarray]) -> Path:
    (path / "folder").mkdir(exist_ok=True)
    for name, array in columns.items():
        np.save(path / "folder" / f"{name}.npy", array, allow_pickle=False)
    return path / "folder"


def write_safetensors(path: Path, columns: dict[str, np.ndarray]) -> Path:
    save_file({name: np.ascontiguousarray(array) for name, array in columns.items()}, path / "t.safetensors")
    return path / "t.safetensors"


def write_parquet(path: Path, columns: dict[str, np.ndarray]) -> Path:
    pq.write_table(arrow(columns), path / "t.parquet", row_group_size=7, write_page_checksum=True)
    return path / "t.parquet"


def write_parquet_lists(path: Path, columns: dict[str, np.ndarray]) -> Path:
    pq.write_table(arrow(columns, fixed=False), path / "lists.parquet")
    return path / "lists.parquet"


def write_arrow(path: Path, columns: dict[str, np.ndarray]) -> Path:
    table = arrow(columns)
    with pa.ipc.new_file(str(path / "t.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=5)
    return path / "t.arrow"


def write_stream(path: Path, columns: dict[str, np.ndarray]) -> Path:
    table = arrow(columns)
    with pa.ipc.new_stream(str(path / "t.arrows"), table.schema) as writer:
        writer.write_table(table, max_chunksize=5)
    return path / "t.arrows"


def write_feather(path: Path, columns: dict[str, np.ndarray]) -> Path:
    pa.feather.write_feather(arrow(columns), str(path / "t.feather"))
    return path / "t.feather"


FORMATS = {
    "npz": write_npz,
    "folder": write_folder,
    "safetensors": write_safetensors,
    "parquet": write_parquet,
    "parquet-lists": write_parquet_lists,
    "arrow": write_arrow,
    "stream": write_stream,
    "feather": write_feather,
}


Writer = Callable[[Path, dict[str, np.ndarray]], Path]


@pytest.fixture(scope="session", params=list(FORMATS))
def write(request) -> Writer:
    """The writer of each format in turn."""
    return FORMATS[request.param]


@pytest.fixture(scope="session", params=[name for name in FORMATS if name != "folder"])
def write_file(request) -> Writer:
    """The writer of each format that is one file."""
    return FORMATS[request.param]


@pytest.fixture(scope="session", params=[name for name in FORMATS if name != "safetensors"])
def write_strings(request) -> Writer:
    """The writer of each format that can hold strings."""
    return FORMATS[request.param]
