"""Scores, and a whole policy, to one ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

import onnx
import onnx_ir as ir

from demur.detectors.check import check_policy
from demur.detectors.columns import RowColumns, slicings
from demur.detectors.decision import decide_rows
from demur.detectors.grouping import decide_groups
from demur.detectors.onnx_ops import IR_VERSION, OPSET, OnnxOps
from demur.detectors.policy import Column, Rule
from demur.detectors.score import Score, Transform
from demur.detectors.tape import Sym
from demur.detectors.tensor import Signal, derived

FLOAT, INT64, BOOL = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.BOOL
SHAPED = "~signals"  # no name of a score; what names of nodes begin with that shape signals before scores see them
Kinds: TypeAlias = dict[str, tuple[ir.DataType, list[str | int]]]


class Reads(Protocol):
    """Whatever reads signals: a score of rows or of streams."""

    @property
    def inputs(self) -> tuple[Signal, ...]: ...


def compile_scores(scores: Mapping[str, Score], widths: Mapping[Signal, int]) -> onnx.ModelProto:
    """The scores alone: inputs are the signals (N, width), output `scores` (N, S) float32 in the order given.

    A score is NaN where a row it reads is not finite. One that overflows on finite rows may be infinite here; in a
    monitor it is NaN, and so is its p-value.

    Raises: ValueError for a score that reads p-values (they need calibrated columns: use `compile_monitor`), or a
    signal whose width is not given.
    """
    fused = [name for name, score in scores.items() if any(map(derived, score.inputs))]
    if fused:
        raise ValueError(f"scores {fused} read other columns; compile their calibrated columns with compile_monitor")
    columns = [Column(name, name) for name in scores]
    xp = OnnxOps()
    inputs = signal_inputs(scores, columns, (), widths)
    rows = RowColumns(xp, scores, columns, symbols(inputs, xp, widths), 0, {}, {})
    return model_of(xp, inputs, {"scores": rows.score_rows()}, {"scores": (FLOAT, ["N", len(columns)])})


def compile_monitor(
    scores: Mapping[str, Score],
    columns: Sequence[Column],
    rules: Sequence[Rule],
    widths: Mapping[Signal, int],
    *,
    shaped: Sequence[Transform] = (),
    empty_group: bool = False,
) -> onnx.ModelProto:
    """Scores, calibration and decision in one graph: signals in, verdicts out.

    Inputs: each used signal (N, width) float32 and, with group columns, group_id (N,) int64 in 0..G-1 and group_count
    (1,) int64 = G. Outputs: scores, p_values (N, S) float32 of the row columns; rule_hits, reasons, pooled (N,) int64;
    accept (N,) bool; with group columns group_scores, group_p (G, Sg) float32, group_rule_hits, group_reasons (G,)
    int64, group_accept (G,) bool. `empty_group` accepts groups without rows. Scores see the signals as `shaped`; what slices
    is read as it comes.

    N must be at least 1: ONNX Runtime's reductions give an empty batch the wrong shape. A caller answers an empty batch
    itself, or runs one blank row in a group of its own and drops it.

    Raises: ValueError when columns, rules, tables and widths do not fit together.
    """
    check_policy(scores, columns, rules, widths)
    xp = OnnxOps()
    inputs = signal_inputs(scores, columns, rules, widths)
    sliced = slicings(columns, rules)
    given = symbols(inputs, xp, widths)
    rows = RowColumns(xp, scores, columns, through(shaped, xp, given), widths.get("logits", 0), sliced, given)
    outputs = decide_rows(xp, rows, rules)
    row_count, group_count = len(rows.row_columns), len(rows.group_columns)
    kinds = _kinds(row_count, group_count)
    if group_count:
        inputs["group_id"] = ir.val("group_id", INT64, ["N"])
        inputs["group_count"] = ir.val("group_count", INT64, [1])
        ids, count = Sym(inputs["group_id"], xp, 0), Sym(inputs["group_count"], xp, 0)
        outputs |= decide_groups(xp, rows, rules, ids, count, outputs["reasons"], empty_group=empty_group)
    return model_of(xp, inputs, outputs, kinds)


def _kinds(rows: int, groups: int) -> Kinds:
    """Of a monitor's outputs, with so many row and group columns."""
    kinds: Kinds = {"scores": (FLOAT, ["N", rows]), "p_values": (FLOAT, ["N", rows])}
    kinds |= {name: (INT64, ["N"]) for name in ("rule_hits", "reasons", "pooled")}
    kinds["accept"] = (BOOL, ["N"])
    if groups:
        kinds |= {"group_scores": (FLOAT, ["G", groups]), "group_p": (FLOAT, ["G", groups])}
        kinds |= {"group_rule_hits": (INT64, ["G"]), "group_reasons": (INT64, ["G"]), "group_accept": (BOOL, ["G"])}
    return kinds


def serialize(model: onnx.ModelProto) -> bytes:
    """The same bytes for the same model, always: what a bundle stores and digests."""
    return model.SerializeToString(deterministic=True)


def signal_inputs(
    scores: Mapping[str, Reads],
    columns: Sequence[Column],
    rules: Sequence[Rule],
    widths: Mapping[Signal, int],
    axis: str = "N",
) -> dict[Signal, ir.Value]:
    """Graph inputs for the signals in use, in the order of `widths`."""
    used = {s for c in columns for s in scores[c.score].inputs if not derived(s)}
    used |= {by.signal for by in slicings(columns, rules).values()}
    missing = sorted(used - set(widths))
    if missing:
        raise ValueError(
            f"scores read signals {missing}, whose widths are not given; known: {sorted(widths)}; "
            "a signal must have the name that scores read, and logits may be of kind probabilities"
        )
    return {s: ir.val(s, FLOAT, [axis, widths[s]]) for s in widths if s in used}


def symbols(inputs: Mapping[Signal, ir.Value], xp: OnnxOps, widths: Mapping[Signal, int]) -> dict[Signal, Sym]:
    return {s: Sym(v, xp, widths[s]) for s, v in inputs.items()}


def through(shaped: Sequence[Transform], xp: OnnxOps, signals: Mapping[Signal, Sym]) -> dict[Signal, Sym]:
    """The signals after those of the transforms that find what they read."""
    for transform in shaped:
        if set(transform.inputs) <= set(signals):
            xp.scope = SHAPED
            signals = transform(xp, signals)
    return dict(signals)


def model_of(xp: OnnxOps, inputs: Mapping[str, ir.Value], outputs: Mapping[str, Sym], kinds: Kinds) -> onnx.ModelProto:
    """The tape as a checked model: shapes inferred strictly, no metadata."""
    values = []
    for name, (dtype, shape) in kinds.items():
        value = xp.node("Identity", outputs[name]).value if outputs[name].value in values else outputs[name].value
        value.name, value.type, value.shape = name, ir.TensorType(dtype), ir.Shape(shape)
        values.append(value)
    nodes, weights = _in_use(xp, values)
    graph = ir.Graph(
        list(inputs.values()), values, nodes=nodes, initializers=weights, opset_imports={"": OPSET}, name="demur"
    )
    model = ir.to_proto(ir.Model(graph, ir_version=IR_VERSION))
    onnx.checker.check_model(model, full_check=True)
    return model


def _in_use(xp: OnnxOps, outputs: list[ir.Value]) -> tuple[list[ir.Node], list[ir.Value]]:
    """Nodes and initializers that the outputs depend on, in their order."""
    needed: set[ir.Value | None] = set(outputs)
    nodes = []
    for node in reversed(xp.nodes):
        if needed & set(node.outputs):
            nodes.append(node)
            needed.update(node.inputs)
    return nodes[::-1], [v for v in xp.initializers.values() if v in needed]
