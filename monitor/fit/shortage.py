"""Calibration rows that do not carry a promise, counted as they were given: rules and fusions leave only a part to judge by."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from demur.detectors.promises.promise import CalibrationRefused
from demur.monitor.fit.table import SignalsTable


@contextmanager
def counted_in(given: SignalsTable | None, first: SignalsTable | None) -> Iterator[None]:
    """A refusal that passes here says how many calibration rows or groups would do, of the kind `given`; `first` are those
    that fusions take, None without any.
    """
    try:
        yield
    except CalibrationRefused as refused:
        if given is None or not refused.rows or refused.rows_needed is None or refused.rows == _units(given):
            raise
        total = math.ceil(refused.rows_needed * _units(given) / refused.rows)
        noun = "rows" if given.grouping is None else "groups"
        taken = "" if first is None else f" and fusions took {_units(first):,}"
        said = f"; in all, about {total:,} calibration {noun}, where {_units(given):,} were given{taken}"
        raise refused.adding(said) from None


def _units(table: SignalsTable) -> int:
    return len(table) if table.grouping is None else table.grouping.count
