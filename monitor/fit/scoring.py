"""Calibration scores come from the compiled graph in ONNX Runtime, never from NumPy: last bits differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.monitor.fit.errors import TableError
from demur.monitor.fit.progress import Tick, silent
from demur.monitor.fit.table import SignalsTable
from demur.monitor.session import Session

BATCH_ROWS = 512  # the fastest at D = 768 too; a graph may hold (batch, D, 100) numbers, 11 GB of `ecod` at 8,192 rows


def score_rows(session: Session, table: SignalsTable, tick: Tick = silent) -> dict[str, NDArray[Any]]:
    """Every row output of the graph over the whole table, in the order of its rows; group outputs in the order of groups."""
    grouping = table.grouping
    grouped = "group_id" in session.inputs and grouping is not None
    rows, found, done = [], [], 0
    for part in parts(len(table), grouping.index if grouped and grouping is not None else None):
        batch = table.take(part)
        feed: dict[str, NDArray[Any]] = {n: a for n, a in batch.arrays().items() if n in session.inputs}
        if grouped and grouping is not None:
            names, index = np.unique(grouping.index[part], return_inverse=True)
            feed |= {"group_id": index.astype(np.int64), "group_count": np.array([len(names)], np.int64)}
        rows.append(part)
        found.append(session.run(feed))
        done += len(part)
        tick("calibrating", done, len(table))
    return _joined(np.concatenate(rows), found)


def parts(count: int, group: NDArray[np.int64] | None) -> Iterator[NDArray[np.int64]]:
    """Row numbers of each batch; a batch never cuts a group."""
    if group is None:
        for start in range(0, count, BATCH_ROWS):
            yield np.arange(start, min(start + BATCH_ROWS, count))
        return
    order = np.argsort(group, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(group[order])) + 1, count)
    start = 0
    while start < count:
        inside = ends[(ends > start) & (ends <= start + BATCH_ROWS)]
        end = int(inside[-1]) if len(inside) else int(ends[ends > start][0])
        yield order[start:end]
        start = end


def _joined(rows: NDArray[np.int64], found: list[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    back = np.argsort(rows, kind="stable")
    joined = {n: np.concatenate([f[n] for f in found]) for n in found[0]}
    return {n: a if n.startswith("group_") else a[back] for n, a in joined.items()}


def stream_index(table: SignalsTable) -> NDArray[np.int64]:
    """(N,) the number of the stream that each row is a step of. Raises: TableError without group ids."""
    if table.grouping is None:
        raise TableError(
            f"{table.source}: expected group_id, the stream that each row is a step of, got none; add that column"
        )
    return table.grouping.index


def score_streams(session: Session, table: SignalsTable, state_size: int) -> NDArray[np.float32]:
    """The running maximum of every column over each whole stream: (streams, S) float32.

    Rows of one group id, in their order, are the steps of one stream; streams advance together, one step a batch. A stream
    with a step that is not finite has NaN.
    Raises: TableError without group ids.
    """
    index = stream_index(table)
    steps = _steps(index)
    signals = {n: a for n, a in table.arrays().items() if n in session.inputs}
    count = int(index.max()) + 1
    state = np.zeros((count, state_size), np.float32)
    highest: NDArray[np.float32] | None = None
    for rows in steps:
        live = index[rows]
        feed: Mapping[str, NDArray[Any]] = {"state": state[live], **{n: a[rows] for n, a in signals.items()}}
        found = session.run(feed)
        state[live] = found["next_state"]
        if highest is None:
            highest = np.full((count, found["scores"].shape[1]), -np.inf, np.float32)
        highest[live] = np.maximum(highest[live], found["scores"])  # NaN stays
    assert highest is not None  # noqa: S101  a table has rows
    return highest


def _steps(index: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """For t = 0, 1, ...: the row of step t of every stream that is that long."""
    order = np.argsort(index, kind="stable")
    starts = np.searchsorted(index[order], index[order])
    place = np.arange(len(index)) - starts
    by_step = order[np.argsort(place, kind="stable")]
    return np.split(by_step, np.cumsum(np.bincount(place))[:-1])
