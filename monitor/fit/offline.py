"""A whole table through a monitor, in bounded batches that never cut a group."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.monitor.errors import InvalidObservation
from demur.monitor.fit.scoring import parts, stream_index
from demur.monitor.fit.table import SignalsTable
from demur.monitor.monitor import Monitor
from demur.monitor.observation import Grouping, observe
from demur.monitor.verdicts import Verdicts

UNIT_COLUMNS = ("accept", "reason_bits", "rule_hits", "pooled", "scores", "p_values", "actions")


def assess_table(monitor: Monitor, table: SignalsTable) -> Verdicts:
    """Verdicts for every row of the table, in its order; group verdicts in the order of group ids, those of groups without
    rows last.

    A stream monitor judges each group id as one stream, a row as one step.
    Raises: InvalidObservation for an empty table, or one of streams without group ids.
    """
    if not len(table):
        raise InvalidObservation(f"{table.source}: expected at least one row, got none")
    if monitor.engine.loaded.manifest.kind == "stream":
        return _streams(monitor, table)
    grouping = table.grouping if monitor.engine.loaded.grouped else None
    rows, found = [], []
    for part in parts(len(table), None if grouping is None else grouping.index):
        batch = table.take(part)
        group = None if grouping is None else grouping.index[part]
        found.append(monitor.engine.assess(observe(batch.widths, batch.arrays(), group_id=group)))
        rows.append(part)
    whole = joined(found, np.argsort(np.concatenate(rows), kind="stable"))
    if grouping is None:
        return whole
    if table.empty:
        none = {n: np.empty((0, width), np.float32) for n, width in table.widths.items()}
        found.append(monitor.engine.assess(observe(table.widths, none, group_id=(), groups=np.arange(table.empty))))
    groups = joined([v.groups for v in found if v.groups is not None], np.arange(grouping.count + table.empty))
    return replace(whole, groups=groups, group_ids=_names(table, grouping))


def _names(table: SignalsTable, grouping: Grouping) -> NDArray[np.int64]:
    """The ids of all groups; of string ids, numbers."""
    if table.empty_groups is None or table.empty_groups.dtype.kind == "U":
        return np.concatenate([grouping.names, np.arange(grouping.count, grouping.count + table.empty)])
    return np.concatenate([grouping.names, table.empty_groups.astype(np.int64)])


def _streams(monitor: Monitor, table: SignalsTable) -> Verdicts:
    index = stream_index(table)
    found: list[Verdicts] = [None] * len(table)  # type: ignore[list-item]
    signals = table.arrays()
    order = np.argsort(index, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(index[order])) + 1):
        with monitor.open_stream() as session:
            for row in rows:
                found[row] = session.step(**{n: a[row : row + 1] for n, a in signals.items()})
    return joined(found, np.arange(len(table)))


def joined(found: list[Verdicts], order: NDArray[Any]) -> Verdicts:
    """One Verdicts out of many of the same policy, units in the given order."""
    known = {f.name for f in fields(Verdicts)} & set(UNIT_COLUMNS)
    columns = {
        n: np.concatenate([getattr(v, n) for v in found])[order] for n in known if getattr(found[0], n) is not None
    }
    cause = next((v.cause for v in found if v.cause), "")
    return replace(found[0], **columns, cause=cause)
