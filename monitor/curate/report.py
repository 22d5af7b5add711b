"""What a curation tool says of every row, and the columns of a table that it asks for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.monitor.curate.checked import CurationError, block_rows
from demur.monitor.fit.table import SignalsTable
from demur.monitor.fit.writing import write_columns

Float64 = NDArray[np.float64]
EXPLAINING = ("label", "prediction", "loss", "group_id", "slice", "severity")


@dataclass(frozen=True, eq=False)
class Report:
    """Columns (n,) of every row of the table it is about: row, id, score (higher is less trustworthy), flagged, others."""

    columns: Mapping[str, NDArray[Any]]
    source: str

    @property
    def flagged(self) -> NDArray[np.bool_]:
        """(n,) the rows a person should look at."""
        return np.asarray(self.columns["flagged"], np.bool_)

    def worst(self, count: int) -> list[dict[str, Any]]:
        """The first `count` flagged rows, the highest score first."""
        order = np.argsort(-self.columns["score"], kind="stable")
        return [self._record(int(row)) for row in order[self.flagged[order]][:count]]

    def write(self, path: Path) -> None:
        """All rows: .json, or any format of `write_columns`. Raises: TableError."""
        if path.suffix != ".json":
            return write_columns(path, self.columns)
        rows = [self._record(row) for row in range(len(self.flagged))]
        part = path.with_name(f".{path.name}.part")
        part.write_text(json.dumps({"source": self.source, "rows": rows}, ensure_ascii=False, allow_nan=False) + "\n")
        part.replace(path)
        return None

    def _record(self, row: int) -> dict[str, Any]:
        return {name: values[row].item() for name, values in self.columns.items()}


def report(
    rows: SignalsTable, score: Float64, flagged: NDArray[np.bool_], beside: Mapping[str, Any] | None = None
) -> Report:
    """A report on a table's rows; `beside` holds further columns, None for one the table does not have."""
    columns: dict[str, NDArray[Any]] = {"row": np.arange(len(rows))}
    if rows.id is not None:
        columns["id"] = rows.id
    columns |= {"score": np.asarray(score, np.float64), "flagged": flagged.astype(np.int64)}
    columns |= {name: np.asarray(values) for name, values in (beside or {}).items() if values is not None}
    return Report(columns, rows.source)


def signal(rows: SignalsTable, name: str) -> Float64:
    """A signal (N, width) as float64. Raises: CurationError when the table has none of that name."""
    if name not in rows.signals:
        raise CurationError(f"{rows.source}: {name}: expected this signal, got {', '.join(rows.signals)}")
    return np.asarray(rows.arrays()[name], np.float64)


def column(rows: SignalsTable, name: str) -> NDArray[Any]:
    """A row column (N,), given or derived. Raises: CurationError when the table has none of that name."""
    values = getattr(rows, name) if name in EXPLAINING else None
    if values is None:
        raise CurationError(f"{rows.source}: {name}: expected this column, got {', '.join(rows.given) or 'none'}")
    return np.asarray(values)


def explaining(rows: SignalsTable, target: str) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
    """(columns, target): the row columns and signals of width 1 that may explain the target.

    Raises: CurationError.
    """
    narrow = {name: signal(rows, name)[:, 0] for name, width in rows.widths.items() if width == 1}
    known: dict[str, NDArray[Any]] = narrow | {n: v for n in EXPLAINING if (v := getattr(rows, n)) is not None}
    if target not in known:
        raise CurationError(f"{rows.source}: {target}: expected one of {', '.join(known) or 'no columns'}")
    return {name: values for name, values in known.items() if name != target}, known[target]


def softmax(logits: Float64) -> Float64:
    """(N, C) probabilities."""
    with np.errstate(invalid="ignore"):  # rows that are not finite stay so, and are refused by name later
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def nearest(rows: Float64, bank: Float64) -> Float64:
    """(n,) Euclidean distance to the nearest of the bank's rows."""
    from scipy.spatial.distance import cdist

    step = block_rows(len(bank))
    return np.concatenate([cdist(rows[s : s + step], bank).min(axis=1) for s in range(0, len(rows), step)])
