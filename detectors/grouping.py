"""Groups as nodes: aggregates of row scores by segment, and the decision on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from demur.detectors.columns import RowColumns
from demur.detectors.decision import LOWEST, hits, not_finite, on_columns, outcome
from demur.detectors.onnx_ops import OnnxOps
from demur.detectors.policy import Rule
from demur.detectors.pvalue import count_in_graph, lay_out
from demur.detectors.reason import Reason
from demur.detectors.tape import Sym


def decide_groups(
    xp: OnnxOps, rows: RowColumns, rules: Sequence[Rule], ids: Sym, count: Sym, row_reasons: Sym, *, empty_group: bool
) -> dict[str, Sym]:
    """group_scores, group_p, group_rule_hits, group_reasons, group_accept.

    A row that is not finite makes its group INVALID by a count of its own, because ONNX Runtime's max-scatter drops
    NaN. A group without rows is UNAVAILABLE unless `empty_group`.
    """
    columns = rows.group_columns
    xp.scope = "groups"
    scores, filled = _aggregate(xp, rows, ids, count, row_reasons)
    p_values = count_in_graph(xp, scores, scores * 0.0, lay_out(columns, 1), "calibration.group", {})
    chosen = on_columns(rules, columns)
    hit = hits(xp, scores, columns, chosen, {}, {}) if chosen else None
    invalid = xp.node("And", not_finite(xp, scores), filled)
    broken = [(invalid, len(columns), Reason.INVALID)]
    if not empty_group:
        broken.append((xp.node("Not", filled), 1, Reason.UNAVAILABLE))
    decided = outcome(xp, "group", rules, hit, broken)
    return {f"group_{k}": v for k, v in ({"scores": scores, "p": p_values} | decided).items()}


def _aggregate(xp: OnnxOps, rows: RowColumns, ids: Sym, count: Sym, row_reasons: Sym) -> tuple[Sym, Sym]:
    """(G, Sg) scores, NaN for groups with a broken row or none, and (G, 1) bool, whether the group has rows."""
    flags = int(Reason.INVALID)
    bit = xp.node("BitwiseAnd", row_reasons, xp.constant(f"int64.{flags}", np.int64(flags)))
    broken = xp.node("Unsqueeze", xp.node("Cast", xp.node("Cast", bit, to=9), to=1), xp.integers(-1), width=0)
    values = rows.grouped()
    clean = xp.where(xp.node("IsNaN", values), 0.0, values)
    one = broken * 0.0 + 1.0
    sums = _scatter(xp, xp.concat([clean, broken, one]), ids, count, len(rows.group_columns) + 2, 0.0, "add")
    size = len(rows.group_columns)
    totals, bad, members = xp.nodes_out("Split", 3, sums, xp.integers(size, 1, 1), width=size, axis=1)
    filled = xp.greater(members, 0.0)
    largest = [c.aggregate != "mean" for c in rows.group_columns]
    result = totals / members
    if any(largest):
        tops = _scatter(xp, xp.where(xp.node("IsNaN", values), LOWEST, values), ids, count, size, LOWEST, "max")
        result = tops if all(largest) else xp.where(xp.constant("groups.takes_max", np.array(largest)), tops, result)
    sound = xp.node("And", filled, xp.node("Not", xp.greater(bad, 0.0)))
    return xp.where(sound, result + result * 0.0, float("nan")), filled


def _scatter(xp: OnnxOps, rows: Sym, ids: Sym, count: Sym, width: int, start: float, reduction: str) -> Sym:
    """(N, K) rows reduced by group id into (G, K)."""
    shape = xp.node("Concat", count, xp.integers(width), width=0, axis=0)
    blank = xp.node("Expand", xp.constant(f"const.{np.float32(start)}", np.float32(start)), shape, width=0)
    places = xp.node("Expand", xp.node("Unsqueeze", ids, xp.integers(-1), width=0), xp.integers(1, width), width=0)
    return xp.node("ScatterElements", blank, places, rows, width=0, axis=0, reduction=reduction)
