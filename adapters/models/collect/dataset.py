"""A dataset to run a model over: named arrays with a row for each input, and what is known about each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from demur.adapters.models.collect.pixels import Pixels
from demur.adapters.models.collect.tensor_spec import TensorSpec, one_of
from demur.monitor.errors import ConfigurationError
from demur.monitor.fit.columns import EMPTY_GROUPS, HEAD, ROW_COLUMNS
from demur.monitor.fit.errors import suggestion

OF_THE_MODEL = ("prediction", "loss")  # of whatever model was run before, not of this one
CARRIED = tuple(name for name in ROW_COLUMNS if name not in OF_THE_MODEL)


class Dataset(Protocol):
    """What is asked of a dataset. `where` names it in messages."""

    where: str

    def __len__(self) -> int: ...

    @property
    def names(self) -> tuple[str, ...]:
        """Columns that a model's input may be fed from."""
        ...

    @property
    def default(self) -> str | None:
        """The column that feeds a model with one input, when there is no doubt."""
        ...

    @property
    def known(self) -> Mapping[str, NDArray[Any]]:
        """(N,) label, group_id, slice, id, weight, severity, eval_only: those that the dataset has."""
        ...

    def digest(self, rows: NDArray[np.int64]) -> str:
        """SHA-256 (hex) of the contents that these rows come from."""
        ...

    def read(self, column: str, rows: NDArray[np.int64], wanted: TensorSpec) -> NDArray[Any]:
        """Rows of a column, prepared for that input. Raises: InvalidObservation, TableError."""
        ...


@dataclass(frozen=True, slots=True)
class Reading:
    """How a dataset is read: `columns` renames (`{"label": "y"}` reads the labels from y), `pixels` prepares images.

    `fed`: columns that were named as inputs, whatever they are called.
    """

    columns: Mapping[str, str]
    pixels: Pixels
    fed: frozenset[str] = frozenset()


def open_dataset(source: str | Path | Mapping[str, Any], reading: Reading) -> Dataset:
    """By what it is: arrays, a folder of images, a CSV (.csv, .tsv), or a table file of any format that `fit` reads.

    Raises: TableError, ConfigurationError for a column that is renamed and not there.
    """
    if isinstance(source, Mapping):
        from demur.adapters.models.collect.table_dataset import of_arrays

        return of_arrays(source, reading)
    path = Path(source)
    if path.suffix.lower() in (".csv", ".tsv"):
        from demur.adapters.models.collect.csv_dataset import CsvDataset

        return CsvDataset(path, reading)
    if path.is_dir() and not any(p.suffix.lower() in (".npy", ".parquet", ".pq") for p in path.iterdir()):
        from demur.adapters.models.collect.image_folder import ImageFolder

        return ImageFolder(path, reading)
    from demur.adapters.models.collect.table_dataset import of_file

    return of_file(path, reading)


def renamed(names: tuple[str, ...], reading: Reading, where: str) -> dict[str, str]:
    """Row columns and the dataset's columns they are read from. Raises: ConfigurationError."""
    for known, name in reading.columns.items():
        if known not in CARRIED:
            raise ConfigurationError(f"--column {known}={name}: expected one of {', '.join(CARRIED)} before the =")
        if name not in names:
            hint = suggestion(name, names)
            raise ConfigurationError(f"--column {known}={name}: {where} has columns {one_of(names)}{hint}")
    used = {*reading.columns.values(), *reading.fed}
    return {**{name: name for name in CARRIED if name in names and name not in used}, **reading.columns}


def feeding(names: tuple[str, ...], sources: Mapping[str, str], reading: Reading) -> tuple[str, ...]:
    """The columns that inputs may be fed from: those that are no row columns, signals' heads or hidden."""
    taken = {*sources.values(), *OF_THE_MODEL, *HEAD, EMPTY_GROUPS} - reading.fed
    return tuple(name for name in names if name not in taken and not name.startswith("_"))


def bind(inputs: tuple[TensorSpec, ...], dataset: Dataset, given: Mapping[str, str]) -> dict[str, str]:
    """The column of each input: as given, else of the input's name, else the dataset's only candidate.

    Raises: ConfigurationError naming the input, the columns there are, and the option.
    """
    names = {tensor.name for tensor in inputs}
    for name in given:
        if name not in names:
            listed = "; ".join(map(str, inputs))
            raise ConfigurationError(f"--input {name}=...: the model has inputs {listed}{suggestion(name, names)}")
    return {tensor.name: _column(tensor, len(inputs) == 1, dataset, given) for tensor in inputs}


def _column(tensor: TensorSpec, alone: bool, dataset: Dataset, given: Mapping[str, str]) -> str:
    if tensor.name in given:
        name = given[tensor.name]
        if any(part not in dataset.names for part in name.split(",")):
            hint = suggestion(name, dataset.names)
            raise ConfigurationError(
                f"--input {tensor.name}={name}: {dataset.where} has columns {one_of(dataset.names)}{hint}"
            )
        return name
    if tensor.name in dataset.names:
        return tensor.name
    if alone and dataset.default is not None:
        return dataset.default
    raise ConfigurationError(
        f"{dataset.where}: no column {tensor.name} for input {tensor}; it has {one_of(dataset.names)}; "
        f"say which with --input {tensor.name}=COLUMN"
    )
