"""From part files to signals tables: signals as collected, row columns from the dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.adapters.models.collect.calls import GROUP, INPUT
from demur.adapters.models.collect.parts import Part
from demur.adapters.models.collect.signal_reader import SignalReader
from demur.adapters.models.collect.streamed import Column, Streamed, write
from demur.monitor.errors import ConfigurationError
from demur.monitor.fit.columns import EMPTY_GROUPS, ORIGIN
from demur.monitor.fit.origin import Origin

OF_INPUTS = ("label", "target", "group_id")  # of an image, not of the boxes in it
PREDICTING = ("logits", "probabilities", "log_probabilities")
PARQUET = (".parquet", ".pq")


@dataclass(frozen=True, slots=True)
class Written:
    """A table: its rows, of how many inputs, how many of those have none; whether head or labels had to be left out."""

    path: Path
    rows: int
    inputs: int
    empty: int = 0
    without_head: bool = False
    without_labels: bool = False


class Tables:
    """The rows of all parts, with the dataset's `known` columns (one entry an input) beside them; `model` is the SHA-256 of the
    model's file, "" when nobody knows it.
    """

    def __init__(
        self, parts: Sequence[Part], known: Mapping[str, NDArray[Any]], signals: SignalReader, model: str = ""
    ) -> None:
        self._parts, self._signals, self._origin = parts, signals, Origin(signals.decoding, model)
        names = parts[0].columns()
        self._widths = {name: shape[1] for name, (shape, _) in names.items() if name not in (INPUT, GROUP)}
        self._boxes = GROUP in names
        self._place = GROUP if self._boxes else INPUT
        self._labelled = "label" in known or "target" in known
        self._known = {name: a for name, a in known.items() if not (self._boxes and name in OF_INPUTS)}

    def write(
        self, targets: Sequence[Path], order: NDArray[np.int64], table_of: NDArray[np.int64] | None
    ) -> list[Written]:
        """One table for each target; `table_of` (inputs,) says where the inputs of `order` go, None: to the only one.

        Raises: ConfigurationError when a table has no rows.
        """
        counts = np.zeros(int(order.max()) + 1, np.int64)
        for part in self._parts:
            np.add.at(counts, part.read(self._place), 1)
        every = np.zeros(len(order), np.int64) if table_of is None else table_of
        return [self._one(path, order[every == number], counts) for number, path in enumerate(targets)]

    def _one(self, path: Path, inputs: NDArray[np.int64], counts: NDArray[np.int64]) -> Written:
        rows, empty = int(counts[inputs].sum()), np.sort(inputs[counts[inputs] == 0])
        if rows == 0:
            raise ConfigurationError(f"{path}: none of its {len(inputs)} inputs has rows; there is no table to write")
        member = np.zeros(len(counts), np.bool_)
        member[inputs] = True
        flat = path.suffix in PARQUET
        beside = {ORIGIN: self._origin.column()} if self._origin else {}
        beside |= {EMPTY_GROUPS: empty} if self._boxes else {}
        write(path, Streamed(rows, self._columns(member), beside if flat else {**self._signals.head, **beside}))
        return Written(
            path,
            rows,
            len(inputs),
            len(empty),
            without_head=flat and bool(self._signals.head),
            without_labels=self._boxes and self._labelled,
        )

    def _columns(self, member: NDArray[np.bool_]) -> dict[str, Column]:
        found = {
            name: Column(np.dtype(np.float32), width, self._rows(name, member)) for name, width in self._widths.items()
        }
        if (name := self._predicting()) is not None:
            found["prediction"] = Column(np.dtype(np.int64), None, self._rows(name, member, _argmax))
        own = "group_id" if self._boxes else "id"
        for name, values in {own: np.arange(len(member)), **self._known}.items():
            found[name] = Column(values.dtype, None, self._rows(self._place, member, values.__getitem__))
        return found

    def _rows(
        self, name: str, member: NDArray[np.bool_], turn: Callable[[NDArray[Any]], NDArray[Any]] | None = None
    ) -> Callable[[], Iterator[NDArray[Any]]]:
        """The rows of a column that belong to the members, part by part, turned into something else."""

        def parts() -> Iterator[NDArray[Any]]:
            for part in self._parts:
                kept = part.read(name)[member[part.read(self._place)]]
                yield kept if turn is None else turn(kept)

        return parts

    def _predicting(self) -> str | None:
        """The signal whose largest column is the predicted class: logits, else one of a kind that ranks classes."""
        ranked = [name for name, kind in self._signals.kinds.items() if kind in PREDICTING and name in self._widths]
        name = "logits" if "logits" in self._widths else next(iter(ranked), None)
        return name if name is not None and self._widths[name] > 1 else None


def _argmax(rows: NDArray[np.float32]) -> NDArray[np.int64]:
    found: NDArray[np.int64] = np.argmax(rows, axis=1)
    return found
