"""Rules as nodes: hits, reasons and accept, for rows and for groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.detectors.columns import RowColumns
from demur.detectors.onnx_ops import OnnxOps
from demur.detectors.policy import Column, Rule, Slicing
from demur.detectors.pvalue import looked_up, with_base
from demur.detectors.reason import Reason
from demur.detectors.tape import Sym

LOWEST = float(np.finfo(np.float32).min)
MOST_RULES = 62  # a bit each in an int64


def hits(
    xp: OnnxOps,
    scores: Sym,
    columns: Sequence[Column],
    rules: Sequence[Rule],
    sliced: Mapping[str, Slicing],
    where: Mapping[Slicing, Sym],
) -> tuple[Sym, list[Rule | None]]:
    """(N, R) bool: the column's score exceeds the rule's threshold, strictly; and which rule each place belongs to.

    Thresholds by slice are those of the row's slice, (N,) in `where`, by what slices the column.

    NaN exceeds nothing: it is INVALID. With at most one rule a column, every column is compared and needs no Gather.
    """
    names = [c.name for c in columns]
    of_column: dict[str, Rule] = {r.column: r for r in rules}
    places: list[Rule | None] = [of_column.get(n) for n in names]
    if len(of_column) < len(rules):
        places = list(rules)
        order = [names.index(r.column) for r in rules]
        scores = xp.node("Gather", scores, xp.integers(*order), width=len(order), axis=1)
    never = np.full(1, np.inf, np.float32)
    name = f"rules.{columns[0].unit}.threshold"
    base, by = by_slicing(
        [(None if r is None else r.column, never if r is None else r.threshold) for r in places], sliced
    )
    thresholds = looked_up(xp, name, by, where, len(places)) or xp.constant(name, base)
    return xp.greater(scores, thresholds), places


def by_slicing(
    values: Sequence[tuple[str | None, NDArray[Any]]], sliced: Mapping[str, Slicing]
) -> tuple[NDArray[Any], dict[Slicing, NDArray[Any]]]:
    """Of numbers (1,), or one a slice, of columns by name: (K,) those of all rows, and the others by slice, (C, K) each."""
    base = np.zeros(len(values), values[0][1].dtype)
    by: dict[Slicing, NDArray[Any]] = {}
    for i, (column, numbers) in enumerate(values):
        if column is None or len(numbers) == 1:
            base[i] = numbers[0]
        else:
            by.setdefault(sliced[column], np.zeros((len(numbers), len(values)), numbers.dtype))[:, i] = numbers
    return base, with_base(by, base)


def not_finite(xp: OnnxOps, values: Sym) -> Sym:
    """(N, K) bool, by IsNaN and IsInf: a provider that folds 0 * x to 0 does not get past this."""
    return xp.node("Or", xp.node("IsNaN", values), xp.node("IsInf", values))


def bits_of(xp: OnnxOps, flags: Sym, bits: Sequence[int], name: str, reduce: str = "ReduceSum") -> Sym:
    """(N,) int64: the sum (or the largest) of the bits whose flag (N, K) is set."""
    chosen = xp.node("Where", flags, xp.constant(name, np.array(bits, np.int64)), xp.constant("int64.0", np.int64(0)))
    return xp.node(reduce, chosen, xp.integers(-1), width=0, keepdims=0)


def reasons_of(xp: OnnxOps, flags: Sym, kinds: Sequence[Reason | None], name: str) -> Sym:
    """(N,) int64: the union of the kinds whose flag (N, K) is set; several flags may share a kind."""
    distinct = [kind for kind in dict.fromkeys(kinds) if kind is not None]
    if len(distinct) == sum(kind is not None for kind in kinds):
        return bits_of(xp, flags, [int(kind or 0) for kind in kinds], f"{name}.reason_bits")
    member = np.array([[kind is d for d in distinct] for kind in kinds], np.float32)
    counts = xp.node("Cast", flags, to=1) @ xp.constant(f"{name}.kind", member)
    return bits_of(xp, xp.greater(counts, 0.0), [int(d) for d in distinct], f"{name}.reason_bits")


def outcome(
    xp: OnnxOps,
    unit: str,
    rules: Sequence[Rule],
    hit: tuple[Sym, list[Rule | None]] | None,
    broken: list[tuple[Sym, int, Reason]],
) -> dict[str, Sym]:
    """rule_hits, reasons, accept from the rules' flags and from (flags, how many, kind) of what is broken."""
    name, zero = f"rules.{unit}", xp.constant("int64.0", np.int64(0))
    parts = [bits_of(xp, f, [int(kind)] * k, f"{name}.{kind.name}".lower(), "ReduceMax") for f, k, kind in broken]
    if hit is not None:
        flags, places = hit
        parts.append(reasons_of(xp, flags, [None if r is None else r.reason for r in places], name))
        bits = [0 if r is None else 1 << rules.index(r) for r in places]
        found = bits_of(xp, flags, bits, f"{name}.rule_bits")
    reasons = parts[0]
    for part in parts[1:]:
        reasons = reasons + part
    return {
        "rule_hits": reasons * zero if hit is None else found,
        "reasons": reasons,
        "accept": xp.node("Equal", reasons, zero),
    }


def decide_rows(xp: OnnxOps, rows: RowColumns, rules: Sequence[Rule]) -> dict[str, Sym]:
    """scores, p_values, rule_hits, reasons, pooled, accept of every row."""
    scores, p_values = rows.assess_rows()
    columns = rows.row_columns
    chosen = on_columns(rules, columns)
    xp.scope = "rules"
    hit = hits(xp, scores, columns, chosen, rows.sliced, rows.places) if chosen else None
    broken = not_finite(xp, xp.concat(checked(xp, rows, scores, p_values)))
    width = sum(1 + bool(c.calibration) for c in columns) + len(rows.group_columns)
    unusable = [(broken, width, Reason.INVALID)]
    if unknown := rows.unknown():
        unusable.append((xp.concat(unknown), len(unknown), Reason.UNAVAILABLE))
    decided = outcome(xp, "row", rules, hit, unusable)
    decided["pooled"] = pooled(xp, rules, chosen, rows, decided["rule_hits"])
    return {"scores": scores, "p_values": p_values} | decided


def checked(xp: OnnxOps, rows: RowColumns, scores: Sym, p_values: Sym) -> list[Sym]:
    """What must be finite in a row: all scores, and the p-values of calibrated columns."""
    columns = rows.row_columns
    calibrated = [i for i, c in enumerate(columns) if c.calibration]
    parts = [scores] if columns else []
    if len(calibrated) == len(columns) and columns:
        parts.append(p_values)
    elif calibrated:
        parts.append(xp.node("Gather", p_values, xp.integers(*calibrated), width=len(calibrated), axis=1))
    return [*parts, rows.grouped()] if rows.group_columns else parts


def pooled(xp: OnnxOps, rules: Sequence[Rule], chosen: Sequence[Rule], rows: RowColumns, like: Sym) -> Sym:
    """(N,) int64: a bit for every rule whose threshold is the pooled one for the row's slice."""
    bits = [(r.column, r.pooled.astype(np.int64) << rules.index(r)) for r in chosen]
    base, by = by_slicing(bits, rows.sliced) if bits else (np.zeros(0, np.int64), {})
    found = looked_up(xp, "rules.pooled_bits", {key: part.sum(axis=1) for key, part in by.items()}, rows.places, 0)
    if found is not None:
        return found
    blank = like * xp.constant("int64.0", np.int64(0))
    return blank + xp.constant("rules.pooled_bits", base.sum()) if base.any() else blank


def on_columns(rules: Sequence[Rule], columns: Sequence[Column]) -> list[Rule]:
    names = {c.name for c in columns}
    return [r for r in rules if r.column in names]
