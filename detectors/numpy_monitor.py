"""Monitors in NumPy, written apart from the graphs: what every compiled monitor must answer."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from demur.detectors.columns import levels, read_by, slicings
from demur.detectors.decision import on_columns
from demur.detectors.evaluate import poison, poisoned
from demur.detectors.numpy_ops import Array, NumpyOps
from demur.detectors.policy import Column, Rule, Slicing
from demur.detectors.pvalue import p_values
from demur.detectors.reason import Reason
from demur.detectors.score import Score, Transform, absent
from demur.detectors.stream import FIRST_MAXIMUM, LATCH, STEPS, StateLayout, StreamScore
from demur.detectors.tensor import Signal, Signals

Ints = NDArray[np.int64]
Outputs = dict[str, NDArray[np.generic]]


def evaluate_monitor(
    scores: Mapping[str, Score],
    columns: Sequence[Column],
    rules: Sequence[Rule],
    signals: Signals[Array],
    *,
    group_id: Ints | None = None,
    group_count: int = 0,
    shaped: Sequence[Transform] = (),
    empty_group: bool = False,
) -> Outputs:
    """What `compile_monitor` computes, by name, shapes and dtypes alike."""
    with np.errstate(all="ignore"):
        sliced = slicings(columns, rules)
        places = {by: _place(by, signals[by.signal]) for by in sliced.values()}
        where = {name: places[by] for name, by in sliced.items()}
        seen = functools.reduce(lambda known, transform: transform(NumpyOps(), known), shaped, signals)
        rows = _row_columns(scores, columns, seen, sliced, where)
        held = [c for c in columns if c.unit == "row"]
        matrix, p = (np.stack([rows[c.name][i] for c in held], axis=1) for i in (0, 1)) if held else _nothing(signals)
        grouped = [rows[c.name][0] for c in columns if c.unit == "group"]
        calibrated = [i for i, c in enumerate(held) if c.calibration]
        broken = _not_finite(np.column_stack([matrix, p[:, calibrated], *grouped]))
        unusable = [(broken, Reason.INVALID)]
        for by, place in places.items():
            value = signals[by.signal][:, 0]
            unusable += [((place == len(by.codes)) & np.isfinite(value), Reason.UNAVAILABLE)] if by.closed else []
        decided = _decide(matrix, held, rules, unusable, where)
        decided["pooled"] = _pooled(rules, held, where, len(broken))
        outputs = {"scores": matrix, "p_values": p} | decided
        if grouped and group_id is not None:
            outputs |= _groups(columns, rules, grouped, broken, group_id, group_count, empty_group)
        return outputs


def _place(by: Slicing, signal: Array) -> Ints:
    """(N,) the slice of each row."""
    if not by.codes:
        return np.asarray(np.argmax(signal, axis=-1), np.int64)
    known = {np.float32(code): place for place, code in enumerate(by.codes)}
    return np.array([known.get(value, len(known)) for value in signal[:, 0]], np.int64)


def _not_finite(values: Array) -> NDArray[np.bool_]:
    """(N,) whether a row of (N, K) holds a NaN or an infinity."""
    return np.asarray(~np.isfinite(values).all(axis=-1), np.bool_)


def _nothing(signals: Signals[Array]) -> tuple[Array, Array]:
    blank = np.zeros((len(next(iter(signals.values()))), 0), np.float32)
    return blank, blank


def _row_columns(
    scores: Mapping[str, Score],
    columns: Sequence[Column],
    signals: Signals[Array],
    sliced: Mapping[str, Slicing],
    where: Mapping[str, Ints],
) -> dict[str, tuple[Array, Array]]:
    """Scores and p-values (N,) of every column, by name; group columns have no p-value of a row."""
    xp, known, found = NumpyOps(), dict(signals), {}
    order = [c for level in levels(scores, columns) for c in level]
    for column in [*order, *(c for c in columns if c.unit == "group")]:
        score = scores[column.score]
        values = poisoned(score, xp, known)
        values = (values + poison(xp, known, read_by(column, score, sliced), absent(score))).astype(np.float32)
        tables = [column.calibration] if column.unit == "row" else [()]
        p = p_values(tables, values[:, None], where[column.name] if column.sliced else None)[:, 0]
        found[column.name] = values, p
        known |= {f"p:{column.name}": p, f"s:{column.name}": values}
    return found


def _decide(
    matrix: Array,
    columns: Sequence[Column],
    rules: Sequence[Rule],
    broken: Sequence[tuple[NDArray[np.bool_], Reason]],
    where: Mapping[str, Ints],
) -> Outputs:
    names = [c.name for c in columns]
    rule_hits, reasons = np.zeros(len(matrix), np.int64), np.zeros(len(matrix), np.int64)
    for rule in on_columns(rules, columns):
        threshold = rule.threshold[0] if len(rule.threshold) == 1 else rule.threshold[where[rule.column]]
        hit = matrix[:, names.index(rule.column)] > threshold
        rule_hits[hit] |= 1 << rules.index(rule)
        reasons[hit] |= int(rule.reason)
    for flag, kind in broken:
        reasons[flag] |= int(kind)
    return {"rule_hits": rule_hits, "reasons": reasons, "accept": reasons == 0}


def _pooled(rules: Sequence[Rule], columns: Sequence[Column], where: Mapping[str, Ints], count: int) -> Ints:
    total = np.zeros(count, np.int64)
    for rule in on_columns(rules, columns):
        by_row = rule.pooled[0] if len(rule.pooled) == 1 else rule.pooled[where[rule.column]]
        total |= np.where(by_row, 1 << rules.index(rule), 0)
    return total


def _groups(
    columns: Sequence[Column],
    rules: Sequence[Rule],
    grouped: Sequence[Array],
    broken: NDArray[np.bool_],
    group_id: Ints,
    group_count: int,
    empty_group: bool,
) -> Outputs:
    held = [c for c in columns if c.unit == "group"]
    matrix = np.full((group_count, len(held)), np.nan, np.float32)
    rows_in = [np.flatnonzero(group_id == g) for g in range(group_count)]
    for g, rows in enumerate(rows_in):
        for i, column in enumerate(held):
            if len(rows) and not broken[rows].any():
                values = grouped[i][rows]
                total = np.cumsum(values, dtype=np.float32)[-1]  # one by one, as scatter adds
                matrix[g, i] = total / np.float32(len(rows)) if column.aggregate == "mean" else values.max()
    matrix = matrix + np.float32(0) * matrix
    p = p_values([c.calibration for c in held], matrix, None)
    empty = np.array([len(rows) == 0 for rows in rows_in], np.bool_)
    reasons = [(_not_finite(matrix) & ~empty, Reason.INVALID)]
    if not empty_group:
        reasons.append((empty, Reason.UNAVAILABLE))
    return {
        f"group_{k}": v for k, v in ({"scores": matrix, "p": p} | _decide(matrix, held, rules, reasons, {})).items()
    }


def evaluate_stream(
    scores: Mapping[str, StreamScore],
    columns: Sequence[Column],
    rules: Sequence[Rule],
    state: Array,
    signals: Mapping[Signal, Array],
) -> Outputs:
    """What `compile_stream` computes for one step of M streams."""
    with np.errstate(all="ignore"):
        layout = StateLayout.of(scores, columns)
        values, following = _step(scores, columns, layout, state, signals)
        inner = following[:, FIRST_MAXIMUM + layout.maxima :]
        invalid = _not_finite(np.concatenate([values, inner], axis=1))
        maxima = slice(FIRST_MAXIMUM, FIRST_MAXIMUM + layout.maxima)
        fresh = state[:, STEPS, None] <= 0
        following[:, STEPS] = state[:, STEPS] + 1
        following[:, maxima] = np.where(fresh, values, np.maximum(state[:, maxima], values))
        following[invalid] = state[invalid]
        following[:, LATCH] = np.maximum(state[:, LATCH], invalid)
        running = np.where(following[:, STEPS, None] > 0, following[:, maxima], np.float32(np.nan))
        p = p_values([c.calibration for c in columns], running, None)
        broken = [(invalid, Reason.INVALID), (state[:, LATCH] > 0.5, Reason.UNAVAILABLE)]
        decided = _decide(running, columns, rules, broken, {})
    return {"next_state": following, "scores": values, "p_values": p} | decided


def _step(
    scores: Mapping[str, StreamScore],
    columns: Sequence[Column],
    layout: StateLayout,
    state: Array,
    signals: Mapping[Signal, Array],
) -> tuple[Array, Array]:
    xp, found, following = NumpyOps(), {}, state.copy()
    for name, first, width in layout.scores:
        score = scores[name]
        held = tuple(state[:, i] for i in range(first, first + width))
        inner, value = score(xp, held, signals)
        found[name] = value + (value * np.float32(0) + poison(xp, signals, score.inputs))
        following[:, first : first + width] = np.stack(inner, axis=1)
    return np.stack([found[c.score] for c in columns], axis=1).astype(np.float32), following
