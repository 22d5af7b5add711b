"""Streaming scores and their monitor: one step of many concurrent streams, state in, state out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import onnx
import onnx_ir as ir

from demur.detectors.check import check_policy
from demur.detectors.compile import BOOL, FLOAT, INT64, model_of, signal_inputs, symbols
from demur.detectors.decision import hits, not_finite, outcome
from demur.detectors.evaluate import poison
from demur.detectors.lift import lift
from demur.detectors.onnx_ops import OnnxOps
from demur.detectors.policy import Column, Rule
from demur.detectors.pvalue import count_in_graph, lay_out
from demur.detectors.reason import Reason
from demur.detectors.score import Scaling
from demur.detectors.tape import Sym
from demur.detectors.tensor import Ops, Signal, Signals, T

LATCH, STEPS, FIRST_MAXIMUM = 0, 1, 2


class StreamScore(Protocol):
    """A score of a sequence so far: state (M,) columns and this step's signals -> next state, (M,) score.

    The state has `state_width` float32 numbers a stream, all zero before the first step. Higher is less trustworthy.
    """

    @property
    def state_width(self) -> int: ...

    @property
    def inputs(self) -> tuple[Signal, ...]: ...

    @property
    def scales(self) -> Scaling: ...

    @property
    def source(self) -> str: ...

    def __call__(self, xp: Ops[T], state: tuple[T, ...], signals: Signals[T]) -> tuple[tuple[T, ...], T]: ...


@dataclass(frozen=True)
class StateLayout:
    """Where a stream's K float32 numbers are: latch (1 = an invalid step was seen), valid steps, the running maximum of
    each column, then each score's own state.
    """

    maxima: int
    scores: tuple[tuple[str, int, int], ...]  # name, first place, width
    size: int

    @classmethod
    def of(cls, scores: Mapping[str, StreamScore], columns: Sequence[Column]) -> StateLayout:
        place, parts = FIRST_MAXIMUM + len(columns), []
        for name in dict.fromkeys(c.score for c in columns):
            parts.append((name, place, scores[name].state_width))
            place += scores[name].state_width
        return cls(len(columns), tuple(parts), place)


def state_size(scores: Mapping[str, StreamScore], columns: Sequence[Column]) -> int:
    """K, the width of the state of one stream, float32."""
    return StateLayout.of(scores, columns).size


def compile_stream(
    scores: Mapping[str, StreamScore], columns: Sequence[Column], rules: Sequence[Rule], widths: Mapping[Signal, int]
) -> onnx.ModelProto:
    """One step of M streams in one graph.

    Inputs: state (M, K) float32, zeros for a fresh stream, and each used signal (M, width) float32. Outputs: next_state
    (M, K), scores (M, S) of this step, p_values (M, S) of the running maximum, rule_hits, reasons (M,) int64, accept
    (M,) bool. A step that is not finite leaves the state as it was but for the latch, is INVALID, and makes every later
    step UNAVAILABLE. Rules compare the running maximum.

    Raises: ValueError when columns, rules, tables and widths do not fit together.
    """
    check_policy(scores, columns, rules, widths, ("stream",))
    xp, layout = OnnxOps(), StateLayout.of(scores, columns)
    inputs = signal_inputs(scores, columns, (), widths, "M")
    state = ir.val("state", FLOAT, ["M", layout.size])
    places = xp.nodes_out("Split", layout.size, Sym(state, xp, layout.size), width=0, axis=1, num_outputs=layout.size)
    values, inner = _step(xp, scores, columns, layout, places, symbols(inputs, xp, widths))
    xp.scope = "stream"
    invalid, kept = _advance(xp, places, values, inner, layout)
    latch = xp.maximum(places[LATCH], xp.node("Cast", invalid, to=1))
    outputs = {"next_state": xp.concat([latch, *kept]), "scores": values}
    outputs |= _decide(xp, columns, rules, kept, invalid, places[LATCH])
    count = len(columns)
    kinds: dict[str, tuple[ir.DataType, list[str | int]]] = {
        "next_state": (FLOAT, ["M", layout.size]),
        "scores": (FLOAT, ["M", count]),
        "p_values": (FLOAT, ["M", count]),
        "rule_hits": (INT64, ["M"]),
        "reasons": (INT64, ["M"]),
        "accept": (BOOL, ["M"]),
    }
    return model_of(xp, {"state": state, **inputs}, outputs, kinds)


def _step(
    xp: OnnxOps,
    scores: Mapping[str, StreamScore],
    columns: Sequence[Column],
    layout: StateLayout,
    places: Sequence[Sym],
    signals: Mapping[Signal, Sym],
) -> tuple[Sym, list[Sym]]:
    """Of this step: poisoned scores (M, S), and the scores' next states."""
    found: dict[str, Sym] = {}
    inner: list[Sym] = []
    for name, first, width in layout.scores:
        xp.scope = name
        score = lift(scores[name], name, xp)
        state, value = score(xp, tuple(places[first : first + width]), signals)
        found[name] = value + (value * 0.0 + poison(xp, signals, score.inputs))
        inner.extend(state)
    return xp.concat([found[c.score] for c in columns]), inner


def _advance(
    xp: OnnxOps, places: Sequence[Sym], values: Sym, inner: Sequence[Sym], layout: StateLayout
) -> tuple[Sym, list[Sym]]:
    """Whether the step is invalid, (M, 1), and what the state keeps after the latch: [steps, maxima (M, S), the rest]."""
    checked = xp.concat([values, *inner])
    flags = Sym(xp.node("Cast", not_finite(xp, checked), to=1).value, xp, checked.width)
    invalid = xp.greater(xp.sum(flags), 0.0)
    steps, end = places[STEPS], FIRST_MAXIMUM + layout.maxima
    before = xp.concat(places[FIRST_MAXIMUM:end])
    largest = xp.where(xp.greater(steps, 0.0), xp.maximum(before, values), values)
    rest = xp.concat(places[end:])
    kept = [(steps, steps + 1.0), (before, largest), (rest, xp.concat(list(inner)))]
    return invalid, [xp.where(invalid, old, new) for old, new in kept]


def _decide(
    xp: OnnxOps, columns: Sequence[Column], rules: Sequence[Rule], kept: Sequence[Sym], invalid: Sym, latch: Sym
) -> dict[str, Sym]:
    steps, maxima = kept[0], kept[1]
    maxima = xp.where(xp.greater(steps, 0.0), maxima, float("nan"))
    xp.scope = "calibration"
    p_values = count_in_graph(xp, maxima, maxima * 0.0, lay_out(columns, 1), "calibration", {})
    xp.scope = "rules"
    hit = hits(xp, maxima, columns, rules, {}, {}) if rules else None
    broken = [(invalid, 1, Reason.INVALID), (xp.greater(latch, 0.5), 1, Reason.UNAVAILABLE)]
    return {"p_values": p_values} | outcome(xp, "stream", rules, hit, broken)
