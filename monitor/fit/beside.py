"""Lists that belong to a table but not to its rows, where a format has no place for them but its metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.monitor.fit.columns import BESIDE, METADATA, row_column
from demur.monitor.fit.errors import TableError

LARGEST_BYTES = 64 << 20  # an id of eight digits for each of six million images


def beside_of(metadata: Mapping[Any, Any] | None) -> dict[str, str]:
    """The lists in the metadata of a file, each as the JSON text it is stored as, by the column's name."""
    held = {_text(key): value for key, value in (metadata or {}).items()}
    return {name: _text(held[METADATA + name]) for name in BESIDE if METADATA + name in held}


def beside_column(texts: Sequence[str], where: str) -> NDArray[Any]:
    """(k,) integers or strings: the lists of all parts of a table. Raises: TableError for another thing."""
    values: list[Any] = []
    for text in texts:
        values += _ids(text, where)
    try:
        array = np.asarray(values)
    except OverflowError:
        array = np.empty(1, object)
    if array.size and array.dtype.kind not in "iuU":
        raise TableError(f"{where}: expected integers or strings in the file's metadata; write the table again")
    return array


def _ids(text: str, where: str) -> list[Any]:
    try:
        values = json.loads(text) if len(text) <= LARGEST_BYTES else None
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, list) or not all(type(v) in (int, str) for v in values):
        raise TableError(f"{where}: expected a list of ids in the file's metadata; write the table again")
    return values


def metadata_of(columns: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """What goes into a file's metadata: the lists among these columns, as integers or strings. Raises: TableError."""
    held = {name: array for name, array in columns.items() if name in BESIDE}
    ids = {name: row_column("group_id", array, name) if array.size else array for name, array in held.items()}
    return {METADATA + name: json.dumps(array.tolist()) for name, array in ids.items()}


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
