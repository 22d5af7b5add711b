"""A CSV of numbers for models of tables."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.adapters.models.collect.dataset import Reading, feeding, renamed
from demur.adapters.models.collect.tensor_spec import TensorSpec, fitted
from demur.monitor.errors import ConfigurationError
from demur.monitor.fit.columns import row_column
from demur.monitor.fit.errors import TableError
from demur.monitor.fit.memory import Budget
from demur.monitor.fit.readers import reading

BYTES_A_CHARACTER = 8  # a field of one digit and its comma become a double


class CsvDataset:
    """A CSV with a header. An empty field is NaN. An input may take one column, or several side by side (`a,b,c`)."""

    def __init__(self, path: Path, how: Reading) -> None:
        self.where, self._path = str(path), path
        if how.pixels.of_files or how.pixels.of_numbers:
            raise ConfigurationError(
                f"{path}: --size, --colour, --scale, --mean, --std, ... are for images; numbers of a CSV are taken as they are"
            )
        with reading(str(path)):
            self._table = _read(path)
        sources = renamed(tuple(self._table.column_names), how, self.where)
        self.known: Mapping[str, NDArray[Any]] = {
            name: row_column(name, self._values(source), f"{path}: {source}") for name, source in sources.items()
        }
        self.names = feeding(tuple(self._table.column_names), sources, how)
        self.default = ",".join(self.names) or None

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def digest(self, _rows: NDArray[np.int64]) -> str:
        with self._path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def read(self, column: str, rows: NDArray[np.int64], wanted: TensorSpec) -> NDArray[Any]:
        parts = [self._numbers(name, rows) for name in column.split(",")]
        return fitted(np.stack(parts, axis=1), wanted, f"{self.where}: {_short(column)}")

    def _numbers(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        values = self._values(name)[rows]
        if values.dtype.kind not in "iufb":
            raise TableError(
                f"{self.where}: {name}: expected numbers, got text; encode it, or leave it out with --input"
            )
        return values

    def _values(self, name: str) -> NDArray[Any]:
        column = self._table.column(name)
        if str(column.type) == "null":
            return np.full(len(column), np.nan)
        found = column.to_numpy()
        return found.astype(np.str_) if found.dtype.hasobject else np.asarray(found)


def _read(path: Path) -> Any:
    from pyarrow import csv

    Budget(None).check(path.stat().st_size * BYTES_A_CHARACTER // 2, str(path))
    names = csv.ParseOptions(delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    table = csv.read_csv(path, parse_options=names)
    if odd := next((name for name in table.column_names if "," in name), None):
        raise TableError(f"{path}: the column {odd!r} has a comma in its name; rename it")
    if len(set(table.column_names)) != len(table.column_names):
        raise TableError(f"{path}: two columns have one name; rename one")
    return table


def _short(column: str) -> str:
    names = column.split(",")
    return column if len(names) < 5 else f"{names[0]}, ... {names[-1]} ({len(names)} columns)"
