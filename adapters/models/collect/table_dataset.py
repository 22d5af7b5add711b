"""Arrays with one row for each input: from memory, or a table file of any format."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.adapters.models.collect.dataset import Reading, feeding, renamed
from demur.adapters.models.collect.pixels import CHANNELS, standardised
from demur.adapters.models.collect.tensor_spec import DTYPES, TensorSpec, fitted
from demur.monitor.errors import ConfigurationError, InvalidObservation
from demur.monitor.fit.columns import as_array, row_column
from demur.monitor.fit.errors import TableError
from demur.monitor.fit.memory import Budget
from demur.monitor.fit.readers import Columns, open_columns, reading

FLOATS = ("", "FP16", "FP32", "FP64")  # "" may be one


class _Arrays:
    """Arrays in memory as an opened file."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self._arrays = dict(arrays)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._arrays)

    def read(self, name: str) -> NDArray[Any]:
        return as_array(self._arrays[name], f"dataset: {name}")


class TableDataset:
    """A column is read when it is first used. Folders of .npy and .safetensors stay on disk, mapped."""

    def __init__(self, opened: Columns, how: Reading, where: str, files: tuple[Path, ...]) -> None:
        self.where, self._opened, self._how, self._files = where, opened, how, files
        if how.pixels.of_files:
            raise ConfigurationError(
                f"{where}: --size, --resize and --colour are for image files; arrays are taken in their own size and colours"
            )
        sources = renamed(opened.names, how, where)
        self.known: Mapping[str, NDArray[Any]] = {
            name: row_column(name, self._read(source), f"{where}: {source}") for name, source in sources.items()
        }
        self.names = feeding(tuple(opened.names), sources, how)
        self.default = self.names[0] if len(self.names) == 1 else None
        self._arrays: dict[str, NDArray[Any]] = {}
        self._rows = self._counted()

    def __len__(self) -> int:
        return self._rows

    def digest(self, _rows: NDArray[np.int64]) -> str:
        running = hashlib.sha256()
        for file in self._files:
            with file.open("rb") as stream:
                running.update(f"{file.name}\n".encode())
                running.update(hashlib.file_digest(stream, "sha256").digest())
        for name in () if self._files else self._opened.names:
            array = np.ascontiguousarray(self._read(name))
            running.update(f"{name} {array.dtype} {array.shape}\n".encode())
            running.update(array.tobytes())
        return running.hexdigest()

    def read(self, column: str, rows: NDArray[np.int64], wanted: TensorSpec) -> NDArray[Any]:
        where, part = f"{self.where}: {column}", self._column(column)[rows]
        if wanted.datatype in FLOATS:
            part = self._standardised(part, column, wanted, where)
        return fitted(part, wanted, where)

    def _standardised(self, part: NDArray[Any], column: str, wanted: TensorSpec, where: str) -> NDArray[Any]:
        """Pixels as an input of floats takes them; other numbers as they are."""
        how, pixels = self._how.pixels, part.dtype == np.uint8
        if pixels and wanted.datatype and how.scale is None:
            raise InvalidObservation(
                f"{where}: input {wanted} takes floats, the column holds uint8; "
                "say what they are divided by with --scale (255, or 1 for none)"
            )
        if not how.of_numbers:
            return part
        if not pixels and part.ndim < 3:
            if column == self.default:
                raise InvalidObservation(
                    f"{where}: --scale, --mean and --std are for pixels: uint8, or (N, H, W) and more; "
                    f"got {part.ndim} axes of {part.dtype}; change the numbers in the table"
                )
            return part
        first = how.layout == "nchw" or (how.layout is None and part.ndim == 4 and part.shape[1] in CHANNELS)
        axis = (1 if first else 3) if part.ndim == 4 else None
        scaled = standardised(part, how, axis=axis, scale=1.0 if how.scale is None else how.scale)
        return scaled.astype(DTYPES.get(wanted.datatype, np.dtype(np.float32)), copy=False)

    def _column(self, name: str) -> NDArray[Any]:
        if name not in self._arrays:
            array = self._read(name)
            if array.ndim == 0 or len(array) != self._rows:
                raise TableError(f"{self.where}: {name}: expected {self._rows} rows, got shape {array.shape}")
            self._arrays[name] = array
        return self._arrays[name]

    def _read(self, name: str) -> NDArray[Any]:
        with reading(f"{self.where}: {name}"):
            return as_array(self._opened.read(name), f"{self.where}: {name}")

    def _counted(self) -> int:
        """Rows of the row columns, which must agree; without one, of the first column."""
        counts = {name: len(array) for name, array in self.known.items()}
        if len(set(counts.values())) > 1:
            raise TableError(f"{self.where}: columns have unequal rows: {counts}; every column has one entry an input")
        if not self.names:
            raise TableError(
                f"{self.where}: expected a column of inputs, got {', '.join(self._opened.names) or 'none'}"
            )
        if not counts:
            self._arrays[self.names[0]] = first = self._read(self.names[0])
            return len(first) if first.ndim else 0
        return next(iter(counts.values()))


def of_arrays(arrays: Mapping[str, Any], how: Reading) -> TableDataset:
    """A dataset in memory."""
    return TableDataset(_Arrays(arrays), how, "dataset", ())


def of_file(path: Path, how: Reading) -> TableDataset:
    """A table file. Raises: TableError."""
    opened = open_columns(path, Budget(None))
    files = tuple(sorted(p for p in path.iterdir() if p.is_file())) if path.is_dir() else (path,)
    return TableDataset(opened, how, str(path), files)
