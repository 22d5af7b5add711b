"""What was collected, told in numbers, and what to look at before fitting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from demur.adapters.models.collect.assemble import Written
from demur.monitor.fit.checks import inspect_table
from demur.monitor.fit.finding import Finding
from demur.monitor.fit.ranges import signal_ranges
from demur.monitor.fit.table import SignalsTable, load_table


@dataclass(frozen=True, slots=True)
class SignalSummary:
    """One signal: its width, smallest and largest finite value, and in how many rows a value is not finite."""

    name: str
    width: int
    minimum: float
    maximum: float
    not_finite: int


@dataclass(frozen=True, slots=True)
class TableSummary:
    """A table read back: signals, accuracy where labels and predictions are known, and what `fit` would say of it."""

    rows: int
    signals: tuple[SignalSummary, ...]
    accuracy: float | None
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Collected:
    """The tables of one run: `inputs` in all, the first `resumed` of them from an earlier, stopped run."""

    tables: tuple[Written, ...]
    inputs: int
    resumed: int
    seconds: float
    kinds: Mapping[str, str]

    def summary(self, number: int = 0) -> TableSummary:
        """Read a table back and describe it. Raises: TableError when it does not fit into memory."""
        return summary(self.tables[number].path, self.kinds)


def summary(path: Path, kinds: Mapping[str, str] | None = None) -> TableSummary:
    """What a table holds; the checks are those of `fit`. Raises: TableError."""
    table = load_table(path)
    ranges, broken = signal_ranges(table), _not_finite(table)
    signals = tuple(
        SignalSummary(name, width, ranges[name].minimum, ranges[name].maximum, broken[name])
        for name, width in table.widths.items()
    )
    accuracy = None if table.right is None else float(table.right.mean())
    return TableSummary(len(table), signals, accuracy, tuple(inspect_table(table, path.name, kinds)))


def _not_finite(table: SignalsTable) -> dict[str, int]:
    counts = dict.fromkeys(table.widths, 0)
    for batch in table.batches():
        for name, rows in batch.signals.items():
            counts[name] += int((~np.isfinite(rows).all(axis=1)).sum())
    return counts
