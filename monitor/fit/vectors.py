"""Self-test vectors: rows of the calibration data, one row with a NaN and one with an infinity."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.monitor.bundle.bundle import npy
from demur.monitor.bundle.selftest import INPUTS, OUTPUTS
from demur.monitor.fit.table import SignalsTable
from demur.monitor.session import Session

ROWS = 32

Arrays = dict[str, NDArray[Any]]


def feeder(table: SignalsTable, tables: Collection[str]) -> Callable[[Session], Arrays]:
    """What makes the vectors of a table once the graph is there."""

    def feed(session: Session) -> Arrays:
        return vectors(table, session, session.width("state") if "state" in session.inputs else 0, tables)

    return feed


def vectors(table: SignalsTable, session: Session, state_size: int, tables: Collection[str] = ()) -> Arrays:
    """The graph's inputs: evenly spaced rows, then the first row with a NaN, then with an infinity, in every signal.

    Of `tables`, where NaN is a missing cell, the first row lacks its last cell, and both broken rows hold infinities.
    """
    chosen = np.linspace(0, len(table) - 1, min(ROWS, len(table))).astype(np.int64)
    feed: Arrays = {}
    for name, array in table.take(chosen).arrays().items():
        if name not in session.inputs:
            continue
        broken = np.repeat(array[:1], 2, axis=0)
        broken[0, -1], broken[1, 0] = -np.inf if name in tables else np.nan, np.inf
        if name in tables:
            array[0, -1] = np.nan
        feed[name] = np.concatenate([array, broken])
    rows = len(chosen) + 2
    if "state" in session.inputs:
        feed["state"] = np.zeros((rows, state_size), np.float32)
    if "group_id" in session.inputs:
        feed |= _groups(rows)
    return feed


def members(feed: Arrays, session: Session) -> dict[str, bytes]:
    """The vectors and what this session answers, as bundle members."""
    expected = session.run(feed)
    packed = {f"{INPUTS}/{n}.npy": npy(a) for n, a in feed.items()}
    return packed | {f"{OUTPUTS}/{n}.npy": npy(a) for n, a in expected.items()}


def _groups(rows: int) -> Arrays:
    """Groups of four rows, the broken rows alone, and one group without rows at the end."""
    ids = np.arange(rows, dtype=np.int64) // 4
    ids[-2:] = ids[-3] + 1 + np.arange(2)
    return {"group_id": ids, "group_count": np.array([ids[-1] + 2], np.int64)}
