"""What is kept of a table once a monitor has judged it: a few numbers for each unit, and none of its signals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from demur.detectors.reason import Reason
from demur.monitor.evaluate.errors import EvaluationError
from demur.monitor.fit.offline import assess_table
from demur.monitor.fit.scoring import stream_index
from demur.monitor.fit.table import SignalsTable
from demur.monitor.monitor import Monitor
from demur.monitor.observation import observe
from demur.monitor.verdicts import BROKEN, Verdicts

Unit = Literal["row", "group", "stream"]
Report = Callable[[int], None]
BATCH_ROWS = 8192


@dataclass(frozen=True, eq=False)
class Judged:
    """Verdicts of N units, columnar. 8 bytes a unit and column, about 30 a unit beside them.

    scores, p_values (N, S) float32; accept (N,) bool; reason_bits, rule_hits (N,) int64; wrong (N,) bool or None without
    labels; cluster (N,) int64 or None: units of one cluster are not independent; severity (N,) int64 or None. `rows` is how
    many rows were read. pooled (N,) int64 or None has a bit for every rule that judged the unit by the pooled table. loss (N,)
    float64 in [0, 1] where losses are graded, and then nobody knows what is wrong; else None.
    """

    scores: NDArray[np.float32]
    p_values: NDArray[np.float32]
    accept: NDArray[np.bool_]
    reason_bits: NDArray[np.int64]
    rule_hits: NDArray[np.int64]
    wrong: NDArray[np.bool_] | None
    cluster: NDArray[np.int64] | None
    severity: NDArray[np.int64] | None
    rows: int
    weighted: bool
    pooled: NDArray[np.int64] | None = None
    loss: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.accept)

    @property
    def broken(self) -> NDArray[np.bool_]:
        """(N,) INVALID or UNAVAILABLE: these units have no score that could be ranked."""
        return np.asarray((self.reason_bits & BROKEN) != 0)


def unit_of(monitor: Monitor, unit: Unit | None = None) -> Unit:
    """What is counted: as asked, else streams for a monitor of streams, groups when a rule judges groups, else rows.

    Raises: EvaluationError for a unit that this bundle does not judge.
    """
    loaded = monitor.engine.loaded
    if loaded.manifest.kind == "stream":
        known: tuple[Unit, ...] = ("stream",)
    else:
        by_group = any(rule.unit == "group" for rule in loaded.manifest.rules)
        known = (("group", "row") if by_group else ("row", "group")) if loaded.grouped else ("row",)
    if unit is not None and unit not in known:
        raise EvaluationError(f"unit: expected {' or '.join(known)} for this bundle, got {unit!r}")
    return unit or known[0]


def columns_of(monitor: Monitor, unit: Unit) -> tuple[str, ...]:
    """The score columns of these units."""
    policy = monitor.engine.loaded.policy
    return policy.group_columns if unit == "group" else policy.columns


def unheard(rows: int) -> None:
    """Nobody asked for progress."""


def judge(monitor: Monitor, table: SignalsTable, unit: Unit, report: Report = unheard) -> Judged:
    """Every unit of the table, through the monitor in bounded batches; `report` hears how many rows each batch had.

    A table of rows is read once, in order, through its `batches`. A stream is refused when any of its steps is; its score
    is the highest of its steps.
    Raises: EvaluationError for an empty table or missing group ids, InvalidObservation for missing signals.
    """
    if unit == "stream":
        return _streams(monitor, table, report)
    if monitor.engine.loaded.grouped:
        return _grouped(monitor, table, unit, report)
    parts = list(_rows(monitor, table, report))
    if not parts:
        raise EvaluationError(f"{table.source}: expected at least one row, got none")
    cluster = _dense([ids for _, ids in parts])
    return replace(_joined([part for part, _ in parts]), cluster=cluster)


def _rows(monitor: Monitor, table: SignalsTable, report: Report) -> Iterator[tuple[Judged, Any]]:
    widths = monitor.engine.loaded.widths
    for whole in table.batches():
        for start in range(0, len(whole), BATCH_ROWS):
            batch = whole.take(slice(start, start + BATCH_ROWS))
            signals = {name: array for name, array in batch.arrays().items() if name in widths}
            verdicts = monitor.engine.assess(observe(widths, signals))
            yield _kept(verdicts, batch, batch.loss, batch.severity), batch.group_id
            report(len(batch))


def _grouped(monitor: Monitor, table: SignalsTable, unit: Unit, report: Report) -> Judged:
    if table.grouping is None:
        raise EvaluationError(f"{table.source}: expected group_id, this policy judges groups; add that column")
    verdicts = assess_table(monitor, replace(table, empty_groups=None))
    report(len(table))
    index = stream_index(table)
    if unit == "row" or verdicts.groups is None:
        return replace(_kept(verdicts, table, table.loss, table.severity), cluster=index)
    return _kept(verdicts.groups, table, _worst(table.loss, index), _worst(table.severity, index))


def _streams(monitor: Monitor, table: SignalsTable, report: Report) -> Judged:
    """Streams advance together, one step of each that is long enough in a batch."""
    session, index = monitor.engine.loaded.session, stream_index(table)
    signals = {name: array for name, array in table.arrays().items() if name in session.inputs}
    count = int(index.max()) + 1
    state = np.zeros((count, session.width("state")), np.float32)
    kept: Judged | None = None
    for rows in steps(index):
        live = index[rows]
        found = session.run({"state": state[live], **{name: array[rows] for name, array in signals.items()}})
        state[live] = found["next_state"]
        kept = _blank(count, found["scores"].shape[1], table, index) if kept is None else kept
        kept.scores[live] = np.maximum(kept.scores[live], found["scores"])  # NaN stays
        kept.p_values[live] = np.minimum(kept.p_values[live], found["p_values"])
        kept.accept[live] &= found["accept"]
        kept.reason_bits[live] |= found["reasons"]
        kept.rule_hits[live] |= found["rule_hits"]
        report(len(rows))
    assert kept is not None  # noqa: S101  a table has rows
    return kept


def steps(index: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """For t = 0, 1, ...: the rows (one a stream) that are step t of their stream; index (N,) is the stream of each row."""
    order = np.argsort(index, kind="stable")
    place = np.empty(len(index), np.int64)
    place[order] = np.arange(len(index)) - np.searchsorted(index[order], index[order])
    return np.split(np.argsort(place, kind="stable"), np.cumsum(np.bincount(place))[:-1])


def _blank(count: int, columns: int, table: SignalsTable, index: NDArray[np.int64]) -> Judged:
    lowest, zeros = np.full((count, columns), -np.inf, np.float32), np.zeros(count, np.int64)
    ones, accept = np.ones((count, columns), np.float32), np.ones(count, np.bool_)
    wrong, severity = _truth(_worst(table.loss, index)), _worst(table.severity, index)
    weighted, loss = table.weight is not None, _degree(_worst(table.loss, index))
    return Judged(lowest, ones, accept, zeros, zeros.copy(), wrong, None, severity, len(table), weighted, loss=loss)


def _kept(
    verdicts: Verdicts, table: SignalsTable, loss: NDArray[Any] | None, severity: NDArray[np.int64] | None
) -> Judged:
    return Judged(
        verdicts.scores,
        verdicts.p_values,
        verdicts.accept,
        verdicts.reason_bits,
        verdicts.rule_hits,
        _truth(loss),
        None,
        severity,
        len(table),
        table.weight is not None,
        verdicts.pooled,
        _degree(loss),
    )


def _truth(loss: NDArray[Any] | None) -> NDArray[np.bool_] | None:
    """Whether each unit is wrong; nobody knows from graded losses."""
    return None if loss is None or loss.dtype.kind == "f" else loss.astype(np.bool_)


def _degree(loss: NDArray[Any] | None) -> NDArray[np.float64] | None:
    """Graded losses."""
    return loss if loss is not None and loss.dtype.kind == "f" else None


def _joined(parts: list[Judged]) -> Judged:
    names = ("scores", "p_values", "accept", "reason_bits", "rule_hits", "wrong", "severity", "pooled", "loss")
    columns: dict[str, Any] = {name: _whole([getattr(part, name) for part in parts]) for name in names}
    return Judged(**columns, cluster=None, rows=sum(p.rows for p in parts), weighted=parts[0].weighted)


def _whole(parts: list[NDArray[Any] | None]) -> NDArray[Any] | None:
    given = [part for part in parts if part is not None]
    return np.concatenate(given) if len(given) == len(parts) else None


def _dense(ids: Iterable[Any]) -> NDArray[np.int64] | None:
    given = [part for part in ids if part is not None]
    return np.unique(np.concatenate(given), return_inverse=True)[1].astype(np.int64) if given else None


def _worst(loss: NDArray[Any] | None, index: NDArray[np.int64]) -> NDArray[Any] | None:
    """A group or stream is wrong when any of its rows is; its loss is the largest of its rows'."""
    if loss is None:
        return None
    worst = np.zeros(int(index.max()) + 1, loss.dtype)
    np.maximum.at(worst, index, loss)
    return worst


def reason_names(bits: int) -> list[str]:
    """The kinds in a set of reasons, in the order of their bits."""
    return [str(kind.name) for kind in Reason if kind & bits]
